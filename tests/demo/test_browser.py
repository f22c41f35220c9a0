"""The page in a real browser: what a visitor does and sees, and that the page asks nobody else for anything."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from browser_fixtures import (
    ASK,
    NEEDS_CHROMIUM,
    PATIENCE,
    STEP_1,
    STEP_2,
    address,
    ask,
    browser,
    expect,
    finished,
    guide,
    panel,
    root,
    source,
    visit,
)
from demo_fixtures import served
from picture_files import encoded, gradient

from demo.ticks import TICKS_FILE

pytestmark = NEEDS_CHROMIUM
__all__ = ["address", "browser", "root", "visit"]


def test_text_streams_and_a_picture_sharpens_in_place(visit, tmp_path: Path):
    seen = threading.Semaphore(0)
    # No scale is drawn before the page has shown the one before it, however slow the machine is.
    with served(tmp_path, drawing=lambda: seen.acquire(timeout=PATIENCE / 1000)) as address:
        page = visit(address)
        page.evaluate(
            """() => { window.seen = []; window.nodes = new Set(); window.boxes = new Set();
            new MutationObserver(() => { const image = document.querySelector('#chat .bot img');
              if (image && image.src !== window.seen.at(-1)) { window.seen.push(image.src); window.nodes.add(image);
                window.boxes.add(Math.round(image.getBoundingClientRect().height)); } })
            .observe(document.body, {subtree: true, childList: true, attributes: true}); }"""
        )
        ask(page)
        expect(page.locator("#chat .bot").first).to_contain_text("Red stool")
        for shown in range(1, 5):
            page.wait_for_function("shown => window.seen.length >= shown", arg=shown)
            seen.release()
        seen.release(100)
        page.wait_for_selector(STEP_2)
        finished(page)
        assert page.evaluate("window.seen.length") == 5, "paper, three scales, the finished picture"
        assert page.evaluate("window.nodes.size") == 1, "one element whose picture changes: no flicker"
        assert page.evaluate("[...window.boxes].filter(height => height > 0).length") == 1, "its box never changes"
        expect(page.locator("#chat")).to_contain_text("You are done!")
        page.close()


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


def test_a_reload_brings_the_conversation_and_its_ticks_back(visit, root: Path):
    page = visit()
    guide(page)
    panel(page)
    before = set(root.glob(f"conversations/*/*/{TICKS_FILE}"))
    page.locator("#ticks input").nth(1).check()
    while not set(root.glob(f"conversations/*/*/{TICKS_FILE}")) - before:
        page.wait_for_timeout(100)
    page.wait_for_timeout(2000)  # A page that leaves before it is told that the tick is kept complains of it.
    page.reload()
    page.wait_for_selector(STEP_2)
    expect(page.locator("#chat .user").first).to_contain_text(ASK)
    panel(page)
    expect(page.locator("#ticks input").nth(1)).to_be_checked()
    expect(page.locator("#ticks input").nth(0)).not_to_be_checked()


def test_two_tabs_of_one_visitor_show_one_conversation(visit):
    first = visit()
    ask(first)
    first.wait_for_selector('#chat img[alt^="Unfinished"]')
    second = first.context.new_page()
    second.goto(first.url)
    expect(second.locator("#chat .user").first).to_contain_text(ASK)
    for page in (first, second):
        page.wait_for_selector(STEP_2)
        finished(page)
    second.fill("#box textarea", "And another?")
    second.keyboard.press("Enter")
    expect(second.locator("#chat .user")).to_have_count(2)
    finished(second)
    first.reload()
    expect(first.locator("#chat .user")).to_have_count(2)


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
