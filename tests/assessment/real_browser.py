"""A real browser without a window, driven through its debugging pipe: pages, keys, and what the page shows then."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE_SECONDS = 60.0


class BrowserError(Exception):
    """What the browser did not do."""


class Browser:
    """Speaks the DevTools protocol: JSON objects that end in a zero byte."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer, self._number, self._rest = reader, writer, 0, b""
        self.problems: list[str] = []

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._reader, 1 << 16)
            if not data:
                raise BrowserError("the browser went away")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        is_entry = message.get("method") == "Log.entryAdded"
        # Such as that what is focused already is not focused by itself.
        is_news = is_entry and message["params"]["entry"]["level"] in ("verbose", "info")
        if (is_entry or message.get("method") == "Runtime.exceptionThrown") and not is_news:
            self.problems.append(json.dumps(message["params"]))
        return message

    def open(self, address: str) -> "Page":
        """A page in a window of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable", session)
        self.call("Page.navigate", session, url=address)
        page.wait("document.readyState === 'complete' && location.protocol !== 'about:'")
        return page


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def value(self, expression: str) -> Any:
        found = self._browser.call("Runtime.evaluate", self._session, expression=expression, returnByValue=True,
                                   awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._holds(expression):
            assert time.monotonic() < deadline, (
                f"waited in vain for {expression}: {self.value('document.body.innerText')}"
            )
            time.sleep(0.01)

    def _holds(self, expression: str) -> bool:
        try:
            return bool(self.value(expression))
        except BrowserError as error:
            # Asked between two documents: there is nothing yet that could hold.
            if "navigated" in str(error) or "context" in str(error):
                return False
            raise

    def press(self, key: str, code: str) -> None:
        """A key with the letter that it writes and its place on the keyboard."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        virtual = {"windowsVirtualKeyCode": 13} if key == "Enter" else {}
        self._browser.call(
            "Input.dispatchKeyEvent", self._session, type="keyDown", key=key, code=code, **text, **virtual
        )
        self._browser.call("Input.dispatchKeyEvent", self._session, type="keyUp", key=key, code=code, **virtual)

    def type(self, text: str) -> None:
        self._browser.call("Input.insertText", self._session, text=text)


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser whose profile lies in a folder, and end it."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    # The protocol wants 3 and 4; from high numbers neither is overwritten by the other.
    reads = fcntl.fcntl(to_browser[0], fcntl.F_DUPFD, 100)
    writes = fcntl.fcntl(from_browser[1], fcntl.F_DUPFD, 100)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
               "--disable-background-networking", f"--user-data-dir={folder}", "--remote-debugging-pipe"]  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", CHROMIUM, *options],
        pass_fds=(reads, writes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    for descriptor in (to_browser[0], from_browser[1], reads, writes):
        os.close(descriptor)
    browser = Browser(from_browser[0], to_browser[1])
    try:
        yield browser
        # It may be gone before it has answered.
        with contextlib.suppress(BrowserError, BrokenPipeError):
            browser.call("Browser.close")
    finally:
        os.close(to_browser[1])
        os.close(from_browser[0])
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
