"""Opens a report.html in headless Chromium and says what is wrong with it; leaves screenshots to look at.

Checked in light and dark, at phone and desktop width: no console error or warning, no exception, no request but for
the file itself, all charts drawn, nothing wider than the window, details on hover, and that the map's controls work.
Needs a Chromium, and nothing of
Python's but the standard library: the browser is spoken to through its debugging pipe.

    python scripts/check_report.py runs/digits-20260101-120000/report.html --screenshots /tmp/shots
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = {"phone": (390, 844, True), "desktop": (1280, 900, False)}
SCHEMES = ("light", "dark")
ANSWER_S = 60.0
DRAWN_S = 30.0


class Browser:
    """A headless Chromium and the conversation with its one page; ``events`` are those that no one asked for."""

    def __init__(self, write_fd: int, read_fd: int) -> None:
        self._write_fd, self._read_fd = write_fd, read_fd
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its answer. Raises RuntimeError if it fails, TimeoutError after `ANSWER_S`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write_fd, content) :]
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page and return its JSON value; promises are awaited."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float) -> bool:
        """Say whether ``expression`` becomes true in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.value(expression):
                return True
            time.sleep(0.05)
        return False

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read_fd], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer within {ANSWER_S:.0f} s")
            part = os.read(self._read_fd, 1 << 16)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        value: dict[str, Any] = json.loads(message)
        return value


@contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    """Start a browser with a fresh profile; end it and delete the profile afterwards."""
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()
    with tempfile.TemporaryDirectory(prefix="check-report-", ignore_cleanup_errors=True) as profile:
        arguments = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-sync",
            "--remote-debugging-pipe", f"--user-data-dir={profile}",
        ]  # fmt: skip
        pid = _start(arguments, browser_reads, browser_writes)
        try:
            os.close(browser_reads)
            os.close(browser_writes)
            yield Browser(we_write, we_read)
        finally:
            os.close(we_write)
            os.close(we_read)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _start(arguments: list[str], reads: int, writes: int) -> int:
    """Start the browser as the leader of a group of its own, the pipe's ends being its descriptors 3 and 4."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (reads, writes)]
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    ends = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(high, start=3)]
    try:
        return os.posix_spawn(arguments[0], arguments, os.environ, file_actions=[*quiet, *ends], setpgroup=0)
    finally:
        for descriptor in high:
            os.close(descriptor)


def check_view(browser: Browser, report: Path, scheme: str, width: str, screenshots: Path) -> list[str]:
    """Open the report in one colour scheme and width; return what is wrong with it."""
    columns, lines, is_phone = WIDTHS[width]
    browser.events.clear()
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.ask("Emulation.setDeviceMetricsOverride", width=columns, height=lines, deviceScaleFactor=1, mobile=is_phone)
    browser.ask("Page.navigate", url=report.resolve().as_uri())
    problems = []
    if not browser.wait_for("document.readyState === 'complete'", DRAWN_S):
        return [f"not loaded within {DRAWN_S:.0f} s"]
    if browser.value("document.getElementById('charts') !== null"):
        if browser.wait_for("document.documentElement?.dataset.drawn === 'yes'", DRAWN_S):
            problems += _check_charts(browser)
        else:
            problems.append(f"charts not drawn within {DRAWN_S:.0f} s")
    if (wide := browser.value("document.documentElement.scrollWidth")) > columns:
        problems.append(f"{wide} px wide in a window of {columns} px")
    height = min(12000, browser.value("document.documentElement.scrollHeight"))
    image = browser.ask(
        "Page.captureScreenshot",
        captureBeyondViewport=True,
        clip={"x": 0, "y": 0, "width": columns, "height": height, "scale": 1},
    )
    (screenshots / f"{width}-{scheme}.png").write_bytes(base64.b64decode(image["data"]))
    return problems + _complaints(browser.events, report)


def _check_charts(browser: Browser) -> list[str]:
    problems = []
    empty = browser.value(
        "[...document.querySelectorAll('.chart')].filter(place => !place.querySelector('svg.main-svg'))"
        ".map(place => place.id)"
    )
    problems += [f"chart {name} is empty" for name in empty]
    if browser.value("document.querySelector('.modebar-btn[data-title*=\"hare\"]') !== null"):
        problems.append("a button offers to share the chart with a server")
    for name in browser.value("[...document.querySelectorAll('.chart')].map(place => place.id)"):
        browser.value(f"document.getElementById('{name}').scrollIntoView({{block: 'center'}})")
        if name != "histogram" and not any(_shows_details(browser, name, part) for part in (0.6, 0.03)):
            problems.append(f"chart {name}: no details on hover")
    if browser.value("document.getElementById('map_kind') !== null"):
        problems += _check_map(browser)
    browser.value("scrollTo(0, 0)")
    return problems


_ROWS = "document.getElementById('heat_map').data[0].z.length"
_CHANGED = "dispatchEvent(new Event('change'))"


def _check_map(browser: Browser) -> list[str]:
    """Use the map's controls as a reader does: each must change what is shown."""
    problems = []
    kinds = browser.value("[...document.getElementById('map_kind').options].map(option => option.value)")
    rows = [browser.value(f"map_kind.value = '{kind}', map_kind.{_CHANGED}, {_ROWS}") for kind in kinds]
    if len(kinds) < 2 or min(rows) < 1 or sum(rows[1:]) < rows[0]:
        problems.append(f"the map's kinds show rows {dict(zip(kinds, rows))}")
    browser.value(f"map_kind.value = '', map_kind.{_CHANGED}")
    failing = browser.value(f"map_failing.checked = true, map_failing.{_CHANGED}, {_ROWS}")
    if failing > rows[0]:
        problems.append(f"{failing} rows out of tolerance of {rows[0]}")
    browser.value(f"map_failing.checked = false, map_failing.{_CHANGED}")
    tensors = browser.value("[...map_tensor.options].map(option => option.value).filter(value => value !== '')")
    for tensor in tensors[:3]:
        browser.value(f"map_tensor.value = '{tensor}', map_tensor.{_CHANGED}")
        if not browser.wait_for("document.querySelector('#histogram svg.main-svg .bars path') !== null", 5.0):
            problems.append(f"tensor {tensor}: no histogram")
        if not browser.value("document.querySelectorAll('#map_panel td').length"):
            problems.append(f"tensor {tensor}: no worst elements")
    x, y = _place_in_chart(browser, "heat_map", 0.02)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    if not browser.wait_for("document.querySelector('#map_panel p b') !== null", 3.0):
        problems.append("a click on the map tells nothing of its cell")
    if tensors:
        browser.value(f"map_tensor.value = '{tensors[0]}', map_tensor.{_CHANGED}")
    return problems


def _shows_details(browser: Browser, name: str, part: float) -> bool:
    """Move the pointer to the top of a chart, ``part`` of its width from the left; say whether details come up."""
    x, y = _place_in_chart(browser, name, part)
    for offset in (3, 0):
        browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x + offset, y=y)
    return browser.wait_for(f"document.querySelector('#{name} .hoverlayer').textContent !== ''", 2.0)


def _place_in_chart(browser: Browser, name: str, part: float) -> tuple[float, float]:
    """Return a point of a chart in the window: near its top, ``part`` of its width from the left."""
    x, y = browser.value(
        f"(() => {{ const place = document.querySelector('#{name} .nsewdrag');"
        " const top = place.getBoundingClientRect().y;"
        " if (top < 80 || top > innerHeight - 40) { scrollBy({ top: top - 200, behavior: 'instant' }); }"
        " const box = place.getBoundingClientRect();"
        f" return [box.x + Math.min(box.width, innerWidth - box.x) * {part}, Math.max(box.y + 10, 80)]; }})()"
    )
    return x, y


def _complaints(events: list[dict[str, Any]], report: Path) -> list[str]:
    complaints = []
    for event in events:
        method, about = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            complaints.append(f"exception: {about['exceptionDetails'].get('exception', {}).get('description')}")
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            complaints.append(f"console {about['type']}: {[argument.get('value') for argument in about['args']]}")
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            complaints.append(f"log {about['entry']['level']}: {about['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if url != report.resolve().as_uri() and not url.startswith(("data:", "blob:", "about:")):
                complaints.append(f"request: {url}")
    return complaints


def main() -> int:
    """Check the reports named on the command line; end with 1 if anything is wrong with one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path, nargs="+")
    parser.add_argument("--screenshots", type=Path, help="a folder for the screenshots (default: beside each report)")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    options = parser.parse_args()
    if options.browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is installed; name one with --browser PATH")
    problems = 0
    with open_browser(options.browser) as browser:
        for report in options.report:
            screenshots = options.screenshots or report.parent
            screenshots.mkdir(parents=True, exist_ok=True)
            for width in WIDTHS:
                for scheme in SCHEMES:
                    found = check_view(browser, report, scheme, width, screenshots)
                    problems += len(found)
                    print(f"{report} {width} {scheme}: {'; '.join(found) or 'good'}", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
