"""A headless Chromium for the tests of pages: the fixture `browser`; what axe-core finds wrong with a page."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
LOADED = """
  const images = [...document.images].filter((image) => image.hasAttribute("src"));
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
"""
# Chromium listens on descriptor 3 and answers on 4, where this process has other files open.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    "--headless",
    "--no-sandbox",  # root, as in a container, has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network, whatever a page asks for
    "--remote-debugging-pipe",
)
PATIENCE = 60  # seconds; a page takes well under one


class Browser:
    """A headless Chromium that opens pages from disk, spoken to in its DevTools protocol: JSON, each ended by a NUL."""

    def __init__(self, program: str, profile: Path) -> None:
        hears, self._to = os.pipe()
        self._from, speaks = os.pipe()
        command = [sys.executable, "-c", START, str(hears), str(speaks), program, *FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(hears, speaks), stdin=quiet, stdout=quiet, stderr=quiet)
        for end in (hears, speaks):
            os.close(end)
        self._unread, self._calls, self._events = b"", 0, list[dict[str, Any]]()

    def close(self) -> None:
        self.call("Browser.close")
        self._process.wait(PATIENCE)
        for end in (self._to, self._from):
            os.close(end)

    def open(self, page: Path, *, width: int = 1200, dark: bool = False) -> str:
        """Load a page in a new tab; what `call` and `ask` know it by."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        tab: str = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.call(f"{part}.enable", tab)
        self.call("Emulation.setDeviceMetricsOverride", tab, width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", tab, features=[scheme])
        self._events.clear()
        self.call("Page.navigate", tab, url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        return tab

    def ask(self, tab: str, script: str) -> Any:
        """What the body of an async function returns in the page once all pictures are there; no error may have come."""
        code = f"(async () => {{ {LOADED} {script} }})()"
        answer = self.call("Runtime.evaluate", tab, expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")
        assert [event for event in self._events if event["method"] in complaints] == []
        return answer["result"].get("value")

    def violations(self, tab: str) -> list[str]:
        """What axe-core finds against WCAG 2 A and AA and its own best practices: a line for each node."""
        self.call("Runtime.evaluate", tab, expression=AXE.read_text(encoding="utf-8"))
        lines: list[str] = self.ask(
            tab,
            """const { violations } = await axe.run();
               return violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html.slice(0, 120)}`))""",
        )
        return lines

    def strike(self, tab: str, key: str) -> None:
        """Press a key with what it does by itself, such as the click that Enter gives a button."""
        number, text = {
            "Enter": (13, "\r"),
            " ": (32, " "),
            "Escape": (27, ""),
            "Tab": (9, ""),
            "?": (191, "?"),
            "/": (191, "/"),
        }[key]
        for kind, typed in (("keyDown", text), ("keyUp", "")):
            sent = {"type": kind, "key": key, "code": key.strip() or "Space", "windowsVirtualKeyCode": number, "text": typed}
            self.call("Input.dispatchKeyEvent", tab, **sent)

    def press(self, tab: str, key: str) -> None:
        """Press a key, for scripts alone."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", tab, type=kind, key=key, code=key)

    def call(self, method: str, tab: str = "", **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters} | ({"sessionId": tab} if tab else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._calls:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._from], [], [], PATIENCE)[0], f"Chromium said nothing for {PATIENCE} s"
            read = os.read(self._from, 1 << 20)
            assert read, "Chromium has ended"
            self._unread += read
        first, self._unread = self._unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(first)
        return message


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on the PATH")
    running = Browser(program, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()
