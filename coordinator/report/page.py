"""Renders report.html: the texts and tables by jinja2, the charts as data that plotly draws in the browser.

Guarantees: whatever a run holds is escaped; the page asks for nothing, which its Content-Security-Policy enforces; the
library is embedded, compressed, only where there is something to draw.
"""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from stepalign.coordinator.languages.translation import language, say
from stepalign.coordinator.report import rows, tables, wording
from stepalign.coordinator.report.chart_words import chart_words
from stepalign.coordinator.report.curves import chart_data
from stepalign.coordinator.report.module_tree import module_tree
from stepalign.coordinator.report.steps_sample import read_sample
from stepalign.coordinator.report.tensor_map import tensor_map
from stepalign.coordinator.results.details_json import read_details_json
from stepalign.coordinator.results.result import Result

TABLE_ROWS = 200
SAMPLED_STEPS = 200
LISTED_NAMES = 200
CHARTS = ("loss", "loss_difference", "rates", "rate_difference", "heat_map")
_TEMPLATES = Path(__file__).parent / "templates"


def prepare() -> None:
    """Do beforehand what every page needs and no result changes: compile the template, compress the library."""
    _environment().get_template("report.html")
    _plotly()


def render_page(folder: Path, result: Result) -> str:
    """Return the whole page of a run; ``folder`` is its run folder, read for steps.jsonl."""
    important = rows.around_divergence(result)
    sample = read_sample(folder, SAMPLED_STEPS, important)
    count = rows.step_count(result.series)
    table_steps = rows.chosen_steps(count, TABLE_ROWS, important, evenly=True)
    details = read_details_json(folder)
    drawn = {**chart_data(result, sample, details), "heat_map": tensor_map(sample, details)}
    charts = {**dict.fromkeys(CHARTS), **drawn, "words": chart_words()}
    has_charts = any(charts[name] for name in CHARTS)
    return (
        _environment()
        .get_template("report.html")
        .render(
            result=result,
            place=result.first_divergence,
            causes=sorted(result.causes, key=lambda cause: -cause.confidence),
            known=wording.known_groups(result.known_differences),
            listed_names=LISTED_NAMES,
            words=wording,
            charts=charts,
            tree=module_tree(details, drawn["heat_map"]),
            case_folder=str(details.get("case_folder") or "CASE"),
            replay_step=(details.get("first_failure") or {}).get("step"),
            folder=folder,
            language=language(),
            has_charts=has_charts,
            sample=sample,
            unlisted=0 if details.get("map") else sample.unlisted,
            step_rows=[rows.step_row(result.series, step) for step in table_steps],
            step_count=count,
            groups=rows.group_count(result.series),
            worst=tables.worst_rows(result),
            compared=tables.compared_rows(result),
            facts=tables.fact_rows(result),
            digests=tables.digests_line(result),
            style=_own("report.css"),
            script=_own("map.js") + _own("charts.js"),
            library=_plotly() if has_charts else "",
        )
    )


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = wording.plain
    environment.globals.update(say=_say_filled, say_cause=_say_cause, say_error=_say_error)
    return environment


def _say_filled(text: str, *values: object) -> str:
    """Return ``text`` in the reader's language, ``values`` in its places {0}, {1}, ..."""
    for number, value in enumerate(values):
        text = text.replace(f"{{{number}}}", str(value))
    return say(text)


def _say_cause(text: str) -> str:
    return say(text, "causes")


def _say_error(text: str) -> str:
    return say(text, "errors")


def _own(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704 (the package's own file)


@lru_cache(maxsize=1)
def _plotly() -> str:
    """Return plotly.js, compressed, in base64: 4.8 MB become 2.0 MB, which browsers since 2023 unpack themselves."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    return base64.b64encode(zlib.compress(get_plotlyjs().encode("utf-8"), 6)).decode("ascii")
