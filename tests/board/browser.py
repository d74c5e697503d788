"""A headless Chromium that is told what to do over the DevTools protocol."""

import base64
import contextlib
import functools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest


class Browser:
    """One tab; `complaints` are errors of its console and of its network."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        websocket = pytest.importorskip("websocket", reason="needs websocket-client to steer a browser")
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if found is None:
            pytest.skip("needs a browser: neither chromium nor google-chrome is installed")
        profile = folder / "profile"
        self.process = subprocess.Popen(
            [found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*",
             f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.number, self.complaints = 0, []
        try:
            port = int(patiently(lambda: (profile / "DevToolsActivePort").read_text().split()[0], 40))
            self.targets = f"http://127.0.0.1:{port}/json"
            self.connect = functools.partial(websocket.create_connection, timeout=40)
            self.socket = self.connect(self._target("page"))
        except BaseException:
            self.process.kill()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def _target(self, kind):
        with urllib.request.urlopen(self.targets) as answer:
            found = [one for one in json.load(answer) if one["type"] == kind]
        return found[0]["webSocketDebuggerUrl"] if found else None

    @contextlib.contextmanager
    def inside(self, kind="iframe"):
        """Speak to the frame, which is a page of its own when it has no origin."""
        outer, self.socket = self.socket, self.connect(patiently(lambda: self._target(kind), 20))
        try:
            for domain in ("Runtime", "Log"):
                self.call(f"{domain}.enable")
            yield
        finally:
            self.socket.close()
            self.socket = outer

    def call(self, method, **params):
        """Send a command and give its result, noting complaints on the way."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            self._note(message)
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def _note(self, message):
        said = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(said["entry"]))

    def go(self, address):
        self.call("Page.navigate", url=address)
        self.until("document.documentElement?.dataset.ready === 'yes'")

    def run(self, script):
        """The value of an expression, a promise's too."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, script, seconds=30):
        """Wait for an expression to become true."""
        value = patiently(lambda: self.run(f"Boolean({script})"), seconds)
        assert value, f"never came true: {script}"

    def place(self, selector):
        """The middle of an element, scrolled into view."""
        return self.run(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); "
            "found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect(); "
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )

    def click(self, selector):
        """Press and release the mouse where the element is."""
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, selector):
        x, y = self.place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def type(self, selector, words):
        """Put the cursor into a field, empty it, and type."""
        self.click(selector)
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        if words:
            self.call("Input.insertText", text=words)
        else:
            for kind in ("keyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent", type=kind, key="Delete", code="Delete", windowsVirtualKeyCode=46
                )

    def choose(self, selector, value):
        """Choose in a list of choices."""
        self.run(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); found.value = "
            f"{json.dumps(value)}; found.dispatchEvent(new Event('input', {{bubbles: true}})); "
            "found.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def picture(self, path, whole=False):
        """Write a picture of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


def patiently(ask, seconds):
    """What `ask` gives as soon as it gives something; the last answer when time is up."""
    ends = time.monotonic() + seconds
    while True:
        try:
            value = ask()
        except (OSError, IndexError):
            value = None
        if value or time.monotonic() > ends:
            return value
        time.sleep(0.05)
