"""Chromium, headless, driven through its DevTools protocol: a page as its reader would see it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_SECONDS = 60.0
_ANSWER_SECONDS = 60.0


def find() -> str | None:
    """Find the browser on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One process of the browser."""

    def __init__(self, program: str, profile: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [
                program,
                "--headless",
                "--no-sandbox",  # without it root cannot run it, and CI is root in its container
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                "--remote-allow-origins=*",
                f"--user-data-dir={profile}",
                *words,
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = profile / "DevToolsActivePort"
        end = time.monotonic() + _START_SECONDS
        while not (told.exists() and told.read_text().count("\n")):
            assert time.monotonic() < end, "the browser did not start"
            assert self._process.poll() is None, "the browser ended"
            time.sleep(0.05)
        self.port = int(told.read_text().split()[0])

    def open(self, path: Path) -> Page:
        """Open a file in a new page and wait until it has loaded."""
        page = self.blank()
        page.go(path.as_uri())
        return page

    def blank(self) -> Page:
        """Open a new page with nothing in it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            target = json.load(answer)
        return Page(target["webSocketDebuggerUrl"])

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """One page, and what it asked of the network and said on the console."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=_ANSWER_SECONDS)
        self._number = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self._loaded = False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; events in between are noted."""
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        name, told = message.get("method"), message.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif name == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif name in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(told))
        elif name == "Page.javascriptDialogOpening":
            self.dialogs.append(told["message"])
        elif name == "Page.loadEventFired":
            self._loaded = True

    def go(self, address: str) -> None:
        """Load an address."""
        self._loaded = False
        self.send("Page.navigate", url=address)
        end = time.monotonic() + _ANSWER_SECONDS
        while not self._loaded:
            assert time.monotonic() < end, "the page did not load"
            self._note(json.loads(self._socket.recv()))

    def ask(self, expression: str) -> Any:
        """Give the value of a JavaScript expression in the page; promises are waited for."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = _ANSWER_SECONDS) -> None:
        """Ask again and again until the answer is true; pages may load in between."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # asked while another page was loading
                if self.ask(f"!!({expression})"):
                    return
            assert time.monotonic() < end, f"{expression}\n{self.ask('document.body.innerText')}"
            time.sleep(0.1)

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a form, as its dialog would."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def write(self, text: str) -> None:
        """Write at the keyboard."""
        self.send("Input.insertText", text=text)

    def looks(self, width: int, height: int, *, dark: bool = False, media: str = "") -> None:
        """Give the page a size, a scheme of colours and a medium."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def press(self, key: str) -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **(text if kind == "keyDown" else {}),
            )

    def picture(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"]}
        clip["height"] = min(size["height"], 12_000)
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def picture_of_view(self, path: Path) -> None:
        """Keep a picture of what is in view: frames of another origin are painted only there."""
        shot = self.send("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> bytes:
        """Give the page as it would be printed on A4."""
        answer = self.send(
            "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True
        )
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """Leave the page."""
        self._socket.close()
