"""Headless Chromium, driven by the DevTools protocol over a pipe, for tests and pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

ARGUMENTS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars"),
    *("--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--force-device-scale-factor=1", "--no-sandbox"),
)
"""The sandbox needs privileges that root in a container lacks; pages are our own."""

TIMEOUT_S = 30.0


class PageError(Exception):
    """A script of the page failed, or the browser did."""


class Page:
    """A tab.

    Attributes:
        messages: what the page's scripts or the browser wrote to the console.
        requests: addresses that were asked for.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.messages: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol."""
        return self._browser.call(method, parameters, self._session)

    def run(self, expression: str) -> Any:
        """The value of an expression, once it is resolved. Raises PageError."""
        done = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise PageError(json.dumps(done["exceptionDetails"])[:2000])
        return done["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window, in pixels."""
        self.call("Page.bringToFront")  # others are not drawn
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def is_like(self, media: str = "", **features: str) -> None:
        """Emulate the medium "print", or features such as ``prefers_color_scheme="dark"``."""
        self.call("Page.bringToFront")
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=listed)

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is loaded."""
        self.messages.clear()
        self.requests.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.run(
            "new Promise((done) => document.readyState === 'complete' ? done() : "
            "addEventListener('load', done))"
        )

    def drawn(self) -> None:
        """Wait until what changed is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        codes = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code="Space" if key == " " else key,
                windowsVirtualKeyCode=codes.get(key, 0),
                modifiers=8 * shift,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse's button at one place and release it at another one."""
        for kind, (x, y), pressed in (
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        ):
            button = "left"
            self.call(
                "Input.dispatchMouseEvent",
                **{"type": kind, "x": x, "y": y, "button": button, "buttons": pressed},
                clickCount=1,
            )

    def picture(self, path: Path) -> None:
        """Write what is visible as PNG."""
        done = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(done["data"]))

    def _note_event(self, event: dict[str, Any]) -> None:
        method, parameters = event["method"], event.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(parameters))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])


class Browser:
    """A running Chromium."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = to, of
        self._selector = selectors.DefaultSelector()
        self._selector.register(of, selectors.EVENT_READ)
        self._buffer = b""
        self._number = 0
        self._pages: dict[str, Page] = {}

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        """Call a method of the protocol; returns its result. Raises PageError."""
        self._number += 1
        request: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            request["sessionId"] = session
        os.write(self._to, json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            message = self._next(deadline)
            if message.get("id") == self._number:
                if "error" in message:
                    raise PageError(f"{method}: {message['error']}")
                return message["result"]
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None and "method" in message:
                page._note_event(message)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise PageError("the browser does not answer")
            data = os.read(self._of, 1 << 20)
            if not data:
                raise PageError("the browser ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def page(self) -> Page:
        """A new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        for domain in ("Runtime", "Log", "Network", "Page"):
            page.call(f"{domain}.enable")
        return page


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, and end it."""
    if PROGRAM is None:
        raise PageError("chromium is missing: apt-get install chromium")
    to_browser, from_browser = os.pipe(), os.pipe()

    def descriptors() -> None:
        """The browser reads from 3 and writes to 4."""
        high = [os.dup2(fd, 90 + at) for at, fd in enumerate((to_browser[0], from_browser[1]))]
        for fd, source in zip((3, 4), high):
            os.dup2(source, fd, inheritable=True)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [PROGRAM, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=descriptors,
            close_fds=False,
            env={**os.environ, "HOME": profile},
        )
        try:
            for fd in (to_browser[0], from_browser[1]):
                os.close(fd)
            yield Browser(to_browser[1], from_browser[0])
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for fd in (to_browser[1], from_browser[0]):
                os.close(fd)
