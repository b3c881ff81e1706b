"""Opens a report.html in headless Chromium and says what is wrong with it; leaves screenshots to look at.

Checked in light and dark, at phone and desktop width: no console error or warning, no exception, no request but for
the file itself, all charts drawn, nothing wider than the window, details on hover. Needs a Chromium, and nothing of
Python's but the standard library: the browser is spoken to through its debugging pipe.

    python scripts/check_report.py runs/digits-20260101-120000/report.html --screenshots /tmp/shots
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import signal
import subprocess
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
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        # The pipe's ends must be 3 and 4 in the browser: a shell puts them there.
        shell = ["sh", "-c", f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}', "sh", *arguments]
        process = subprocess.Popen(
            shell,
            pass_fds=(browser_reads, browser_writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            os.close(browser_reads)
            os.close(browser_writes)
            yield Browser(we_write, we_read)
        finally:
            os.close(we_write)
            os.close(we_read)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


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
        if not any(_shows_details(browser, name, part) for part in (0.6, 0.03)):
            problems.append(f"chart {name}: no details on hover")
    browser.value("scrollTo(0, 0)")
    return problems


def _shows_details(browser: Browser, name: str, part: float) -> bool:
    """Move the pointer to the top of a chart, ``part`` of its width from the left; say whether details come up."""
    x, y = browser.value(
        f"(() => {{ const box = document.querySelector('#{name} .nsewdrag').getBoundingClientRect();"
        f" return [box.x + Math.min(box.width, innerWidth - box.x) * {part}, box.y + 10]; }})()"
    )
    for offset in (3, 0):
        browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x + offset, y=y)
    return browser.wait_for(f"document.querySelector('#{name} .hoverlayer').textContent !== ''", 2.0)


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
