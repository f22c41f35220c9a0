"""A demo that is served, and browsers that visit it: none may complain, or ask another host for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_fixtures import served

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here: apt-get install chromium"),
]
expect = sync_api.expect
PATIENCE = 40_000
ASK = "How do I assemble a stool?"
STEP_1, STEP_2 = '#chat img[alt^="Drawing of step 1"]', '#chat img[alt^="Drawing of step 2"]'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with served(root, pause=0.2, at_once=2) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser, address: str):
    """Opens pages, each of a visitor of its own; afterwards none may have complained, or asked another host."""
    contexts, faults, visited = [], [], [address]

    def watch(page) -> None:
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: _stranger(asked.url, visited) and faults.append(asked.url))

    def opened(url: str = address, **options):
        visited.append(url)
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        context.on("page", watch)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#box textarea:enabled")
        return page

    expect.set_options(timeout=PATIENCE)
    opened.faults = faults
    yield opened
    for context in contexts:
        context.close()
    assert faults == [], faults


def _stranger(url: str, visited: list[str]) -> bool:
    return not url.startswith((*visited, "data:", "blob:"))


def ask(page, text: str = ASK) -> None:
    page.fill("#box textarea", text)
    page.keyboard.press("Enter")


def finished(page) -> None:
    """The answer is whole, and everything around it is up to date."""
    expect(page.locator("#status")).to_contain_text("Seed of the last answer")
    page.wait_for_selector("#box button.submit-button")


def guide(page) -> None:
    ask(page)
    page.wait_for_selector(STEP_2)
    finished(page)


def panel(page) -> None:
    page.get_by_text("Your guide: tick off").click()
    page.wait_for_selector("#ticks input")


def source(page, selector: str) -> str:
    return page.locator(selector).last.get_attribute("src")
