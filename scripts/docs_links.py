"""A hook of the site's builder: links that lead out of docs/ (to examples, CONTRIBUTING) become plain names there.

In the repository they work as links; the site holds only docs/.
"""

from __future__ import annotations

import re
from typing import Any

_OUTWARD = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!\.)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page with its outward links replaced; depth decides what leads out."""
    depth = page.file.src_uri.count("/")

    def replace(match: "re.Match[str]") -> str:
        target = match.group(0).rpartition("](")[2]
        ups = len(target) - len(target.lstrip("./"))
        return match.group(1) if ups // 3 > depth else match.group(0)

    return _OUTWARD.sub(replace, markdown)
