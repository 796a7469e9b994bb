"""A page of `fracgen explore` in a headless Chromium, as the tests drive it."""

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.onepfrac import OnePFrac
from fracgen.registry import from_dict
from fracgen.shards.settings import parse_yaml

CHROMIUM = shutil.which("chromium")
MISSING = "chromium" if CHROMIUM is None else "" if find_spec("playwright") else "playwright"
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
]
PIXELS = """selector => [...document.querySelectorAll(selector)].map(canvas => {
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let text = "";
    for (const value of data) text += String.fromCharCode(value);
    return { index: Number(canvas.dataset.index), width, height, data: btoa(text) };
})"""
IDLE = "html[data-ready] #stage[aria-busy='false']"


@contextmanager
def served(source: Path, place: Path) -> Iterator[str]:
    """The address of a page, while its command runs in `place`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "FRACGEN_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "fracgen", "explore", str(source), "--no-open"]
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()  # tests that a shell started in the background pass on an ignored SIGINT
            process.communicate(timeout=60)


@contextmanager
def browsing() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page in a context of its own, watched: what it asks elsewhere, and what it complains of."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address, self.complaints, self.outstanding, self.most = address, [], Counter(), Counter()
        self.origin = address.partition("/?")[0]
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=self.origin)
        self.context.set_default_timeout(120_000)  # ms; the first picture may wait for kernels to be compiled
        self.page = self.context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._started)
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, self._ended)

    def _channel(self, request: Any) -> str:
        return (json.loads(request.post_data or "{}") if request.method == "POST" else {}).get("channel", "")

    def _started(self, request: Any) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.complaints.append(f"a request to {request.url}")
        channel = self._channel(request)
        self.outstanding[channel] += 1
        self.most[channel] = max(self.most[channel], self.outstanding[channel])

    def _ended(self, request: Any) -> None:
        self.outstanding[self._channel(request)] -= 1

    def open(self, fragment: str = "") -> "Tab":
        self.page.goto(f"{self.address}#{fragment}")
        return self.settle()

    def settle(self) -> "Tab":
        self.page.wait_for_selector(IDLE, state="attached")
        return self

    def press(self, key: str) -> "Tab":
        self.page.keyboard.press(key)
        return self.settle()

    def slide(self, name: str, share: float) -> None:
        """Drag a slider from its middle to a share of its width, in many small moves."""
        box = self.page.locator(f"#field-{name}-slider").bounding_box()
        places = np.linspace(box["width"] / 2, box["width"] * share, 25)
        self.page.mouse.move(box["x"] + places[0], box["y"] + box["height"] / 2)
        self.page.mouse.down()
        for place in places:
            self.page.mouse.move(box["x"] + place, box["y"] + box["height"] / 2)
        self.page.mouse.up()
        self.settle()

    def type(self, selector: str, text: str) -> None:
        self.page.fill(selector, text)
        self.page.keyboard.press("Tab")
        self.settle()

    def pixels(self, selector: str) -> dict[int, np.ndarray]:
        """What is on canvases, (H, W, 3) by index; opaque."""
        images = {}
        for each in self.page.evaluate(PIXELS, selector):
            data = np.frombuffer(base64.b64decode(each["data"]), np.uint8).reshape(each["height"], each["width"], 4)
            assert (data[..., 3] == 255).all()
            images[each["index"]] = data[..., :3]
        return images

    @property
    def recipe(self) -> OnePFrac:
        """The resolved recipe that the page would save."""
        return from_dict(parse_yaml(self.page.text_content("#text-yaml"), "the page's YAML"))

    @property
    def fragment(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.page.url.partition("#")[2]))
