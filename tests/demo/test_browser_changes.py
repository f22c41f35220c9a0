"""The page in a real browser: changing what was said, going elsewhere in mid-drawing, and what can be chosen."""

from __future__ import annotations

import json
from pathlib import Path

from browser_fixtures import (
    ASK,
    NEEDS_CHROMIUM,
    STEP_1,
    STEP_2,
    address,
    ask,
    browser,
    expect,
    guide,
    root,
    visit,
)
from demo_fixtures import adapted_menu, served
from picture_files import encoded, gradient

pytestmark = NEEDS_CHROMIUM
__all__ = ["address", "browser", "root", "visit"]


def press(page, name: str, within: str = "#chat") -> None:
    page.locator(within).get_by_role("button", name=name, exact=True).last.click()


def drawer(page) -> None:
    page.locator("#sidebar .toggle-button").click()
    page.get_by_text("Advanced", exact=True).click()


def seed_is(page, seed: int) -> None:
    expect(page.locator("#status")).to_have_text(f"Seed of the last answer: {seed}")


def picture(page) -> bytes:
    """The file of the first step's picture."""
    return page.request.get(page.locator(STEP_1).evaluate("image => image.src")).body()


def saved(root: Path, question: str) -> dict:
    """The conversation that begins with this question, {} before it is saved."""
    for file in root.glob("conversations/*/*/conversation.json"):
        found = json.loads(file.read_text())
        if found["turns"] and found["turns"][0]["message"][-1]["text"] == question:
            return found
    return {}


def test_an_answer_is_drawn_again_and_again_as_it_was(visit):
    page = visit()
    guide(page)
    seed_is(page, 0)
    drawn = picture(page)
    press(page, "Retry")
    seed_is(page, 1)
    assert picture(page) != drawn
    drawer(page)
    page.fill("#seed textarea, #seed input", "0")
    press(page, "Retry")
    seed_is(page, 0)
    assert picture(page) == drawn
    page.fill("#seed textarea, #seed input", "")
    press(page, "Use the last answer's seed", "#sidebar")
    expect(page.locator("#seed textarea, #seed input")).to_have_value("0")


def test_a_message_is_edited_taken_back_and_cleared(visit, root: Path):
    page = visit()
    ask(page, "Wow! A stool?")
    page.wait_for_selector(STEP_2)
    seed_is(page, 0)
    press(page, "Edit")
    expect(page.locator("#chat textarea.edit-textarea")).to_have_value("Wow! A stool?")
    page.fill("#chat textarea.edit-textarea", "Wow! A bench?")
    press(page, "Submit")
    expect(page.locator("#chat .user").first).to_contain_text("Wow! A bench?")
    expect(page.locator("#chat .user")).to_have_count(1)
    while not saved(root, "Wow! A bench?"):
        page.wait_for_timeout(100)
    expect(page.locator("#box button.submit-button")).to_be_visible()
    press(page, "Undo")
    expect(page.locator("#chat .user")).to_have_count(0)
    expect(page.locator("#box textarea")).to_have_value("Wow! A bench?")
    page.locator("#box textarea").press("Enter")
    seed_is(page, 0)
    press(page, "Clear")
    expect(page.locator("#chat .user")).to_have_count(0)
    page.locator("#sidebar .toggle-button").click()
    expect(page.locator("#history")).to_contain_text("Wow! A bench?")


def test_a_message_with_a_picture_is_taken_back_with_it(visit, tmp_path: Path):
    page = visit()
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(gradient(64, 48)))
    page.set_input_files("#box input[type=file]", str(photo))
    page.wait_for_selector("#box .thumbnail-item")
    ask(page, "Which step is this?")
    page.wait_for_selector(STEP_2)
    seed_is(page, 0)
    expect(page.get_by_role("button", name="Edit", exact=True)).to_have_count(0)
    press(page, "Undo")
    page.wait_for_selector("#box .thumbnail-item")
    page.locator("#box textarea").press("Enter")
    page.wait_for_selector('#chat .user img[alt="A picture that you sent"]')
    page.wait_for_selector(STEP_2)


def test_an_example_is_asked(visit):
    page = visit()
    page.get_by_role("button", name="Draw a green table.").click()
    expect(page.locator("#chat .user").first).to_contain_text("Draw a green table.")
    page.wait_for_selector(STEP_2)


def test_a_new_conversation_in_mid_drawing_stays_new(visit, root: Path):
    page = visit()
    page.locator("#sidebar .toggle-button").click()
    ask(page, "A stool, in vain?")
    page.wait_for_selector('#chat img[alt^="Unfinished"]')
    press(page, "New conversation", "#sidebar")
    expect(page.locator("#chat .user")).to_have_count(0)
    while not saved(root, "A stool, in vain?"):
        page.wait_for_timeout(100)
    assert saved(root, "A stool, in vain?")["turns"][0]["reason"] == "cancelled"
    expect(page.locator("#history")).to_contain_text("A stool, in vain?")
    ask(page, "Another?")
    page.wait_for_selector(STEP_2)
    expect(page.locator("#chat .user")).to_have_count(1)
    expect(page.locator("#chat .user").first).to_contain_text("Another?")


def test_an_earlier_conversation_chosen_in_mid_drawing_stays_chosen(visit, root: Path):
    page = visit()
    page.locator("#sidebar .toggle-button").click()
    ask(page, "The first?")
    page.wait_for_selector(STEP_2)
    seed_is(page, 0)
    press(page, "New conversation", "#sidebar")
    expect(page.locator("#chat .user")).to_have_count(0)
    ask(page, "The second?")
    page.wait_for_selector('#chat img[alt^="Unfinished"]')
    page.locator("#history").get_by_text("The first?").click()
    expect(page.locator("#chat .user").first).to_contain_text("The first?")
    while not saved(root, "The second?"):
        page.wait_for_timeout(100)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#chat .user").first).to_contain_text("The second?")
    expect(other.locator("#chat")).to_contain_text("Stopped. What was written so far stays.")
    expect(page.locator("#chat .user").first).to_contain_text("The first?")


def test_what_is_chosen_in_the_drawer_reaches_the_answer(visit, root: Path):
    page = visit()
    drawer(page)
    page.fill("#seed textarea, #seed input", "7")
    page.fill("#guidance input[type=number]", "3")
    page.locator("#guidance input[type=number]").press("Tab")
    ask(page, "With settings?")
    page.wait_for_selector(STEP_2)
    seed_is(page, 7)
    assert saved(root, "With settings?")["turns"][0]["options"]["guidance"] == 3


def test_models_and_adapters_are_switched_without_a_reload(visit, tmp_path: Path):
    with served(tmp_path, adapted_menu()) as address:
        page = visit(address)
        page.locator("#sidebar .toggle-button").click()
        guide(page)

        def choose(menu: str, name: str) -> None:
            page.locator(f"#{menu} input").click()
            page.get_by_role("option", name=name, exact=True).click()

        choose("adapter", "style")
        ask(page, "And in style?")
        expect(page.locator("#chat .user")).to_have_count(2)
        seed_is(page, 1)
        assert [turn["adapter"] for turn in saved(tmp_path, ASK)["turns"]] == [None, "style"]
        choose("model", "two")
        page.get_by_text("Advanced", exact=True).click()
        expect(page.locator("#guidance input[type=number]")).to_have_value("4")
        expect(page.locator("#adapter input")).to_have_value("none")
        ask(page, "And with another model?")
        expect(page.locator("#chat")).to_contain_text("And with another model?")
        seed_is(page, 2)
        assert saved(tmp_path, ASK)["model"] == f"{1:016x}"
        page.reload()
        expect(page.locator("#chat .user")).to_have_count(3)
        page.locator("#sidebar .toggle-button").click()
        expect(page.locator("#model input")).to_have_value("two")
        page.close()
