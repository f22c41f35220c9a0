"""Takes the screenshots beside this file, of the demo with the bundled model: python docs/demo/shoot.py

Pictures are drawn slower than they are, so that each state can be caught.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import vlm.generate
from demo.app import build_app
from demo.server import launch
from vlm.agent import load_agent

HERE = Path(__file__).parent
STOOL, BENCH = "How do I assemble a blue stool with three legs?", "How do I assemble a red bench?"
WIDE, TALL = {"width": 960, "height": 860}, {"width": 960, "height": 1120}
PATIENCE = 300_000
COLOURS = 256

pause = 0.0
"""Seconds that each scale takes longer."""


@contextmanager
def slowed(decode: Callable[..., Any]) -> Iterator[None]:
    def slow(*given: Any) -> Any:
        time.sleep(pause)
        return decode(*given)

    vlm.generate._decode = slow
    try:
        yield
    finally:
        vlm.generate._decode = decode


def slower(seconds: float) -> None:
    global pause
    pause = seconds


def visitor(browser: Browser, address: str, size: dict[str, int], **options: Any) -> Page:
    """The page of somebody new."""
    context = browser.new_context(viewport=size, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#box textarea:enabled")
    return page


def ask(page: Page, question: str) -> None:
    page.fill("#box textarea", question)
    page.keyboard.press("Enter")


def says(page: Page, where: str, text: str) -> None:
    page.wait_for_function("([at, text]) => document.querySelector(at)?.innerText.includes(text)", arg=[where, text])


def answered(page: Page, text: str = "Seed of the last answer") -> None:
    says(page, "#status", text)
    page.wait_for_selector("#box button.submit-button")
    page.wait_for_timeout(500)


def shot(page: Page, **options: Any) -> Image.Image:
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    return Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")


def keep(image: Image.Image, name: str) -> None:
    """In few colours: the pages are mostly paper."""
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def drawing(browser: Browser, address: str) -> None:
    """A finished picture, the next at a middle scale; then stopped there."""
    page = visitor(browser, address, TALL)
    slower(1.5)
    ask(page, STOOL)
    says(page, "#chat", "Step 2: scale 4 of 6")
    page.wait_for_timeout(700)
    keep(shot(page), "drawing.png")
    page.locator("#box button.stop-button").click()
    answered(page)
    slower(0)
    keep(shot(page), "stopped.png")
    page.context.close()


def changing(browser: Browser, address: str) -> bytes:
    """A guide and its panel, a step drawn anew, the conversations after a reload; returns a picture of the guide."""
    page = visitor(browser, address, TALL)
    ask(page, BENCH)
    answered(page)
    page.locator("#sidebar .toggle-button").click()
    page.get_by_role("button", name="New conversation").click()
    page.locator("#sidebar .toggle-button").click()
    page.wait_for_function("!document.querySelector('#chat .user')")
    ask(page, STOOL)
    answered(page)
    page.get_by_text("Your guide: tick off").click()
    page.wait_for_selector("#ticks input")
    page.locator("#ticks input").first.check()
    page.wait_for_timeout(1000)
    keep(shot(page, full_page=True), "guide.png")
    page.locator("#step input").click()
    page.get_by_role("option", name="Step 2").click()
    page.locator("#redraw").click()
    answered(page, "Seed of step 2, drawn anew")
    keep(shot(page, full_page=True), "redrawn.png")
    picture = page.request.get(page.locator('#chat img[alt^="Drawing of step 2"]').evaluate("one => one.src")).body()
    page.reload()
    page.wait_for_selector('#chat img[alt^="Drawing of step 2"]')
    page.locator("#sidebar .toggle-button").click()
    says(page, "#history", "red bench")
    page.wait_for_timeout(1000)
    page.set_viewport_size({"width": 1200, "height": 860})
    page.wait_for_timeout(500)
    keep(shot(page), "history.png")
    page.context.close()
    return picture


def asking(browser: Browser, address: str, picture: bytes) -> None:
    """A picture that was sent, and what the model says of it."""
    page = visitor(browser, address, WIDE)
    photo = {"name": "photo.png", "mimeType": "image/png", "buffer": picture}
    page.set_input_files("#box input[type=file]", [photo])
    page.wait_for_selector("#box .thumbnail-item")
    ask(page, "Which step is this?")
    answered(page)
    keep(shot(page), "asked.png")
    page.context.close()


def two(browser: Browser, address: str) -> None:
    """Two visitors at once, side by side: one is answered, the other is told to wait."""
    one, other = (visitor(browser, address, {"width": 560, "height": 860}) for _ in range(2))
    slower(0.5)
    ask(one, STOOL)
    says(one, "#chat", "Step 1")
    ask(other, BENCH)
    says(other, "#chat", "Busy")
    says(one, "#chat", "Step 2: scale 3 of 6")
    left, right = shot(one), shot(other)
    both = Image.new("RGB", (left.width + right.width + 8, left.height), (120, 120, 120))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 8, 0))
    keep(both, "two-visitors.png")
    slower(0)
    for page in (one, other):
        answered(page)
        page.context.close()


def phone(browser: Browser, address: str) -> None:
    page = visitor(browser, address, {"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
    ask(page, STOOL)
    answered(page)
    keep(shot(page), "phone-dark.png")
    page.context.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, slowed(vlm.generate._decode):
        root = Path(folder)
        app = build_app(load_agent(), root)
        address = launch(app, wait=False, root=root)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        drawing(browser, address)
        asking(browser, address, changing(browser, address))
        two(browser, address)
        phone(browser, address)
        browser.close()
        app.close()


if __name__ == "__main__":
    main()
