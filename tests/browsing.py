"""A headless browser, driven by the WebDriver protocol alone (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever asks a network fails, and is logged
)
_PATIENCE = 60.0  # seconds until a browser that does not start is given up


def missing() -> str:
    """What is not installed of that which a browser test needs, or ''."""
    if not any(map(shutil.which, BROWSERS)):
        return "no browser is installed (chromium)"
    return "" if shutil.which("chromedriver") else "chromedriver is not installed (chromium-driver)"


class Browser:
    """One window of a running browser."""

    def __init__(self, port: int, session: str) -> None:
        self._root = f"http://127.0.0.1:{port}/session/{session}"

    def open(self, page: Path) -> None:
        self._call("POST", "url", {"url": page.as_uri()})

    def run(self, script: str, *given: object) -> Any:
        """What the script returns, in the page."""
        return self._call("POST", "execute/sync", {"script": script, "args": list(given)})

    def resize(self, width: int, height: int) -> None:
        """The size of what is seen of the page, as a device has it."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._tools("Emulation.setDeviceMetricsOverride", metrics)

    def darken(self, dark: bool) -> None:
        """Whether the reader prefers dark pages."""
        value = "dark" if dark else "light"
        self._tools(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]}
        )

    def print_page(self) -> bytes:
        return base64.b64decode(self._call("POST", "print", {}))

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        size = self.run(
            "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        made = self._tools("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        return base64.b64decode(made["data"])

    def wheel(self, x: int, y: int, by: int) -> None:
        scroll = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": by, "duration": 0}
        self._call("POST", "actions", {"actions": [{"type": "wheel", "id": "wheel", "actions": [scroll]}]})

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        moves = [
            {"type": "pointerMove", "x": start[0], "y": start[1], "duration": 0},
            {"type": "pointerDown", "button": 0},
            {
                "type": "pointerMove",
                "x": (start[0] + end[0]) // 2,
                "y": (start[1] + end[1]) // 2,
                "duration": 20,
            },
            {"type": "pointerMove", "x": end[0], "y": end[1], "duration": 20},
            {"type": "pointerUp", "button": 0},
        ]
        self._call("POST", "actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def hover(self, x: int, y: int) -> None:
        moves = [{"type": "pointerMove", "x": x, "y": y, "duration": 0}]
        self._call("POST", "actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def press(self, key: str) -> None:
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", "actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def logged(self) -> list[str]:
        """What the console says since the last call: errors, refused requests, violations of the policy."""
        return [entry["message"] for entry in self._call("POST", "se/log", {"type": "browser"})]

    def close(self) -> None:
        self._call("DELETE", "", None)

    def _tools(self, command: str, given: dict[str, Any]) -> Any:
        return self._call("POST", "goog/cdp/execute", {"cmd": command, "params": given})

    def _call(self, method: str, path: str, body: object) -> Any:
        return call(method, f"{self._root}/{path}".rstrip("/"), body)


def call(method: str, url: str, body: object) -> Any:
    """One command of the protocol. Raises AssertionError with what the browser says is wrong."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it runs on this machine
    try:
        with opener.open(request, timeout=_PATIENCE) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"].splitlines()[0]) from None


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that can reach no network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _await(f"http://127.0.0.1:{port}/status")
        binary = next(path for path in map(shutil.which, BROWSERS) if path)
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": binary, "args": list(_OPTIONS)},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = call("POST", f"http://127.0.0.1:{port}/session", {"capabilities": {"alwaysMatch": wanted}})
        window = Browser(port, made["sessionId"])
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait()


def _await(url: str) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            call("GET", url, None)
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
