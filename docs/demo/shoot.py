"""Takes the screenshots beside this file, of the demo with the bundled model: python docs/demo/shoot.py"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from demo.app import build_app
from demo.server import launch
from vlm.agent import load_agent

HERE = Path(__file__).parent
ASK = "How do I assemble a blue stool with three legs?"
DONE = "document.querySelector('#status')?.innerText.includes('Seed')"


def ask(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#box textarea:enabled")
    page.fill("#box textarea", ASK)
    page.keyboard.press("Enter")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder)
        app = build_app(load_agent(), root, at_once=2)
        address = launch(app, wait=False, root=root)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 960, "height": 860})
        context.set_default_timeout(300_000)
        page = context.new_page()
        ask(page, address)
        page.wait_for_selector('#chat img[alt^="Unfinished: Drawing of step 2"]')
        page.screenshot(path=HERE / "drawing.png")
        page.wait_for_function(DONE)
        page.get_by_text("Your guide: tick off").click()
        page.wait_for_selector("#ticks input")
        page.locator("#ticks input").first.check()
        page.screenshot(path=HERE / "guide.png", full_page=True)
        phone = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
        phone.set_default_timeout(300_000)
        page = phone.new_page()
        ask(page, address)
        page.wait_for_function(DONE)
        page.screenshot(path=HERE / "phone-dark.png")
        browser.close()
        app.close()


if __name__ == "__main__":
    main()
