"""The page in a real browser: what a visitor sees, and that the page asks nobody else for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_fixtures import served
from picture_files import encoded, gradient

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here: apt-get install chromium"),
]
expect = sync_api.expect
PATIENCE = 40_000
ASK = "How do I assemble a stool?"
STEP_1, STEP_2 = '#chat img[alt^="Drawing of step 1"]', '#chat img[alt^="Drawing of step 2"]'


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("web"), pause=0.2, at_once=2) as url:
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
    contexts, faults = [], []

    def watch(page) -> None:
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: _stranger(asked.url, address) and faults.append(asked.url))

    def opened(url: str = address, **options):
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
    assert faults == []


def _stranger(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


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


def test_text_streams_and_a_picture_sharpens_in_place(visit):
    page = visit()
    page.evaluate(
        """() => { window.seen = []; window.nodes = new Set(); window.boxes = new Set();
        new MutationObserver(() => { const image = document.querySelector('#chat .bot img');
          if (image && image.src !== window.seen.at(-1)) { window.seen.push(image.src); window.nodes.add(image);
            window.boxes.add(Math.round(image.getBoundingClientRect().height)); } })
        .observe(document.body, {subtree: true, childList: true, attributes: true}); }"""
    )
    ask(page)
    expect(page.locator("#chat .bot").first).to_contain_text("Red stool")
    page.wait_for_selector(STEP_2)
    finished(page)
    assert page.evaluate("window.seen.length") >= 4, "paper, scales, the finished picture"
    assert page.evaluate("window.nodes.size") == 1, "one element whose picture changes: no flicker"
    assert page.evaluate("[...window.boxes].filter(height => height > 0).length") == 1, "its box never changes"
    expect(page.locator("#chat")).to_contain_text("You are done!")


def test_stop_in_mid_picture_keeps_the_answer_so_far(visit):
    page = visit()
    ask(page)
    page.wait_for_selector('#chat img[alt^="Unfinished"]')
    page.locator("#box button.stop-button").click()
    expect(page.locator("#chat")).to_contain_text("Stopped. What was written so far stays.")
    expect(page.locator("#chat")).to_contain_text("Attach leg 1.")
    finished(page)


def test_redrawing_one_step_leaves_the_other(visit):
    page = visit()
    guide(page)
    before = source(page, STEP_1), source(page, STEP_2)
    panel(page)
    page.locator("#redraw").click()
    page.wait_for_function(
        "([step, old]) => [...document.querySelectorAll(step)].some(image => !image.src.endsWith(old))",
        arg=[STEP_1, before[0].split("file=")[1]],
    )
    assert source(page, STEP_2) == before[1]


def test_a_step_is_edited_and_ticked_off(visit):
    page = visit()
    guide(page)
    panel(page)
    page.locator("#ticks input").nth(1).check()
    page.fill("#words textarea, #words input", "Lay the seat down.")
    page.locator("#edit").click()
    page.wait_for_selector('#chat img[alt*="Lay the seat down."]')
    expect(page.locator("#ticks")).to_contain_text("1. Lay the seat down.")
    expect(page.locator("#ticks input").nth(1)).to_be_checked()


def test_a_picture_is_uploaded_and_asked_about(visit, tmp_path: Path):
    page = visit()
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(gradient(64, 48)))
    page.set_input_files("#box input[type=file]", str(photo))
    page.wait_for_selector("#box .thumbnail-item")
    ask(page, "Which step is this?")
    page.wait_for_selector('#chat .user img[alt="A picture that you sent"]')
    page.wait_for_selector(STEP_2)
    finished(page)


def test_what_is_no_picture_is_told(visit, tmp_path: Path):
    page = visit()
    fake = tmp_path / "fake.png"
    fake.write_text("just words")
    page.set_input_files("#box input[type=file]", str(fake))
    page.wait_for_selector("#box .thumbnail-item, #box .file")
    ask(page, "What is this?")
    expect(page.locator("#chat")).to_contain_text("no picture that can be read")
    expect(page.locator("#box textarea")).to_have_value("What is this?")


def test_markup_in_a_message_is_shown_as_typed(visit):
    page = visit()
    text = "<img src=x onerror=alert(1)> **hi** ![x](http://example.org/x.png)"
    ask(page, text)
    expect(page.locator("#chat .user").first).to_contain_text(text)
    page.wait_for_selector(STEP_2)
    finished(page)


@pytest.mark.parametrize("kind", ["html", "pdf", "md", "json", "zip"])
def test_each_format_downloads(visit, kind: str):
    page = visit()
    guide(page)
    panel(page)
    with page.expect_download() as coming:
        page.locator(f"#download-{kind}").click()
    assert coming.value.suggested_filename == f"guide.{kind}"
    assert coming.value.path().stat().st_size > 100


def test_a_reload_brings_the_conversation_back(visit):
    page = visit()
    guide(page)
    page.reload()
    page.wait_for_selector(STEP_2)
    expect(page.locator("#chat .user").first).to_contain_text(ASK)


def test_a_page_left_in_mid_drawing_stops_its_answer_and_keeps_it(visit):
    page = visit()
    ask(page)
    page.wait_for_selector('#chat img[alt^="Unfinished"]')
    page.reload()
    expect(page.locator("#chat")).to_contain_text("Stopped. What was written so far stays.")
    assert all("Abort" in fault or "Connection errored out" in fault for fault in visit.faults)
    visit.faults.clear()  # The page that was left complained of its stream; the new one must not.
    guide(page)


def test_two_visitors_at_once_never_meet(visit):
    one, two = visit(), visit()
    ask(one, "Mine is a stool.")
    ask(two, "Mine is a bench.")
    for page in (one, two):
        page.wait_for_selector(STEP_2)
        finished(page)
    assert "bench" not in one.locator("#chat").inner_text()
    assert "Mine is a stool" not in two.locator("#chat").inner_text()
    assert source(one, STEP_1) != source(two, STEP_1)


def test_conversations_begin_and_are_deleted(visit):
    page = visit()
    guide(page)
    page.locator("#sidebar .toggle-button").click()
    expect(page.locator("#history")).to_contain_text(ASK)
    page.get_by_role("button", name="Delete this conversation").click()
    expect(page.locator("#chat .user")).to_have_count(0)
    expect(page.locator("#history")).not_to_contain_text(ASK)


def test_dark_mode_and_a_narrow_phone(visit):
    page = visit(color_scheme="dark", viewport={"width": 360, "height": 740})
    guide(page)
    panel(page)
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(red, green, blue) < 80, "dark where the system is dark"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing to scroll sideways"


def test_everything_can_be_reached_and_has_a_name(visit):
    page = visit()
    guide(page)
    panel(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, img')].filter(one => one.offsetParent
        && !(one.innerText || one.ariaLabel || one.alt || one.title || one.placeholder || one.labels?.length
        || one.querySelector('img[alt]:not([alt=""])')))
        .map(one => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
