"""A headless Chromium, driven by the DevTools protocol over its debugging pipe: no port, no driver, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
READS, WRITES = 3, 4  # the descriptors that Chromium's debugging pipe has by definition


def chromium() -> str:
    """The first Chromium on PATH; without one, a test is skipped, but fails in continuous integration."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no {', '.join(NAMES)} on PATH: install one (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Tab:
    """One page of the browser, and all that it logged, raised and asked for."""

    def __init__(self, commands: int, answers: int, seconds: float = 60.0) -> None:
        self._commands, self._answers, self._seconds = commands, answers, seconds
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._until(lambda found: found.get("id") == self._count)["result"]

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page and wait until all of it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=address)
        if not self.of("Page.loadEventFired"):
            self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, selector: str) -> None:
        """Click an element as a person does, with the mouse in its middle."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center',"
            " behavior: 'instant'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, code: int, modifiers: int = 0) -> None:
        """Press a key that types nothing, such as Tab (9) or ArrowRight (39); modifiers: 8 is Shift."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                      modifiers=modifiers)  # fmt: skip

    def wait(self, script: str, seconds: float = 10.0) -> Any:
        """The value of a JavaScript expression as soon as it is truthy."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.run(script):
                return found
            time.sleep(0.02)
        raise AssertionError(f"not true within {seconds} s: {script}")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """The events of these kinds so far, what they carry."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            while b"\0" in self._buffer:
                text, self._buffer = self._buffer.split(b"\0", 1)
                found: dict[str, Any] = json.loads(text)
                if "method" in found:
                    self.events.append(found)
                if wanted(found):
                    assert "error" not in found, found["error"]
                    return found
            if not select.select([self._answers], [], [], deadline - time.monotonic())[0]:
                break
            piece = os.read(self._answers, 1 << 20)
            if not piece:
                raise AssertionError("Chromium ended")
            self._buffer += piece
        raise AssertionError(f"no answer from Chromium in {self._seconds} s")


@contextmanager
def browser(profile: Path, flags: Sequence[str] = ()) -> Iterator[Tab]:
    """A tab in a browser of its own, with a fresh profile; both end with the block."""
    path = chromium()
    profile.mkdir(parents=True)
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()

    def wire() -> None:
        # Both away first: one of them may lie on the other's place.
        ends = [os.dup2(end, 50 + i) for i, end in enumerate((to_browser, from_browser))]
        os.dup2(ends[0], READS)
        os.dup2(ends[1], WRITES)

    environment = os.environ | {"HOME": str(profile)}  # its caches and crash reports stay with the profile
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", *flags, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, close_fds=False,
            preexec_fn=wire,
        )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    try:
        tab = Tab(commands, answers)
        tab.attach()
        yield tab
    finally:
        os.close(commands)  # Chromium ends when its debugger goes
        os.close(answers)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
