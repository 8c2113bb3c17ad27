"""A tab of a real browser, driven over Chromium's own debugging pipe: no driver, no port, no library."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and answers on 4, each message ended by a zero byte.
CONNECT = "import os, sys; r, w, *run = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); os.execvp(run[0], run)"
KEYS = {"Tab": 9, "ArrowRight": 39, "ArrowDown": 40}


class Tab:
    """Opens pages, sends real mouse and key events, and keeps what the console says and what would be loaded."""

    def __init__(self, profile):
        (reads, self.to), (self.found, writes) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]  # out of the way of 3 and 4
        command = [sys.executable, "-c", CONNECT, *map(str, ends), BROWSER, *FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=ends, stdout=quiet, stderr=quiet)
        for end in (reads, writes, *ends):
            os.close(end)
        self.answers = os.fdopen(self.found, "rb")
        self.number, self.session, self.events = 0, None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self):
        message = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser closed"
            message += byte
        return json.loads(message)

    def open(self, page, width=1280, theme="light", script=True):
        """Load a file at a width; the events of it alone are kept."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.send("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def ask(self, expression):
        """The value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector):
        """Press the mouse in the middle of the first element, and let the page's own events follow."""
        self.ask(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.ask(f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
                       f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")  # fmt: skip
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
        settled = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(true))))"
        self.send("Runtime.evaluate", expression=settled, awaitPromise=True)

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    @property
    def complaints(self):
        """Whatever the console says, exceptions and refusals of the content security policy among it."""
        loud = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in loud]

    @property
    def requested(self):
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.answers.close()
        os.close(self.to)


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on PATH")
    opened = Tab(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()
