"""The page in a real browser, for everyone: in the dark, on a phone, by keyboard, legible and named."""

from __future__ import annotations

import pytest
from browser_fixtures import (
    ASK,
    NEEDS_CHROMIUM,
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

pytestmark = NEEDS_CHROMIUM
__all__ = ["address", "browser", "root", "visit"]


def test_dark_mode_and_a_narrow_phone(visit):
    page = visit(color_scheme="dark", viewport={"width": 360, "height": 740})
    guide(page)
    panel(page)
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(red, green, blue) < 80, "dark where the system is dark"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing to scroll sideways"


@pytest.mark.parametrize("width", [800, 960, 1280, 1700])
def test_the_page_is_as_wide_as_there_is_room_and_the_sidebar_covers_nothing(visit, width: int):
    page = visit(viewport={"width": width, "height": 860}, reduced_motion="reduce")

    def place(selector: str) -> tuple[float, float]:
        box = page.locator(selector).bounding_box()
        return box["x"], box["x"] + box["width"]

    empty = place("#chat")
    assert empty[1] - empty[0] > min(width, 860) - 100
    ask(page, "Hi")
    finished(page)
    assert place("#chat") == empty, "what is said does not change its width"
    page.locator("#sidebar .toggle-button").click()
    page.wait_for_function("document.querySelector('#sidebar').getBoundingClientRect().left >= 0")
    assert place("#sidebar")[1] <= min(place("#title")[0], place("#chat")[0])
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


FAINT = """([wanted, within]) => {
  const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = colour => { const [r, g, b] = colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const below = one => { const chain = []; for (let at = one; at; at = at.parentElement) chain.unshift(at);
    return chain.reduce((paint, at) => over(parse(getComputedStyle(at).backgroundColor), paint), [255, 255, 255, 1]); };
  const found = [];
  for (const one of document.querySelectorAll(within)) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    const style = getComputedStyle(one);
    if (!own || !one.checkVisibility({opacityProperty: true, visibilityProperty: true}) || one.closest(':disabled')
      || !one.getClientRects().length || one.closest('.sr-only, svg, style, script')) continue;
    const paint = below(one), ink = over(parse(style.color), paint);
    const [low, high] = [light(ink), light(paint)].sort((x, y) => x - y);
    const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < (large ? wanted / 1.5 : wanted))
      found.push(`${contrast.toFixed(2)} ${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 40)}`);
  }
  return found; }"""


def faint(page, wanted: float = 4.5, within: str = "body *") -> list[str]:
    """Texts whose contrast is less than is wanted."""
    return page.evaluate(FAINT, [wanted, within])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_on_the_page_has_contrast_enough(visit, scheme: str):
    page = visit(color_scheme=scheme)
    page.wait_for_timeout(500)
    assert len(faint(page, 40)) > 10, "texts are looked at"
    assert faint(page) == [], "the empty page, with its examples"
    guide(page)
    panel(page)
    page.locator("#ticks input").first.check()
    page.locator("#sidebar .toggle-button").click()
    page.get_by_text("Advanced", exact=True).click()
    page.wait_for_timeout(1000)  # Colours change in steps.
    assert page.evaluate("document.body.innerText.includes('Temperature of words')")
    assert faint(page) == []


UNDER = ":is(button, label, a):hover, :is(button, label, a):hover *"


def hovered(page) -> tuple[set[str], list[str]]:
    """Buttons and labels that the pointer was over, one after another, and texts of theirs that were faint then."""
    names, found, looked = set(), [], 0
    for one in page.locator("button:visible, label:visible, a:visible").all():
        if one.is_disabled():
            continue
        one.scroll_into_view_if_needed()
        box = one.bounding_box()
        if box is None or not box["width"]:
            continue
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        if one.evaluate("one => one.matches(':hover')"):
            names.add(one.inner_text().strip() or one.get_attribute("aria-label") or "")
            found += faint(page, within=UNDER)
            looked += len(faint(page, 40, UNDER))
    assert looked >= len(names - {""}) / 2, "texts are looked at"
    return names, found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_under_the_pointer_has_contrast_enough(visit, scheme: str):
    page = visit(color_scheme=scheme, reduced_motion="reduce", viewport={"width": 960, "height": 1500})
    names, found = hovered(page)
    assert "Draw a green table." in names and found == [], "the empty page, with its examples"
    guide(page)
    panel(page)
    page.locator("#ticks input").first.check()
    names, found = hovered(page)
    assert {"Redraw this step", "HTML", "1. Attach leg 1.", "2. Attach leg 2."} <= names and found == []
    page.locator("#sidebar .toggle-button").click()
    page.get_by_text("Advanced", exact=True).click()
    page.wait_for_timeout(1000)
    names, found = hovered(page)
    assert {"New conversation", "Delete this conversation", "Use the last answer's seed", ASK} <= names and found == []


def test_a_guide_is_asked_for_ticked_off_and_redrawn_by_keyboard_alone(visit):
    page = visit()
    page.locator("#box textarea").focus()
    page.keyboard.type(ASK)
    page.keyboard.press("Enter")
    page.wait_for_selector(STEP_2)
    finished(page)
    before = source(page, STEP_1), source(page, STEP_2)

    def to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert ring == "solid", f"{selector} shows that it has the focus"
                return
        raise AssertionError(f"{selector} is not reached")

    page.locator("#box textarea").focus()
    to("button.label-wrap")
    page.keyboard.press("Enter")
    to("#ticks input")
    page.keyboard.press("Space")
    expect(page.locator("#ticks input").first).to_be_checked()
    to("#redraw")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "([step, old]) => [...document.querySelectorAll(step)].some(image => !image.src.endsWith(old))",
        arg=[STEP_1, before[0].split("file=")[1]],
    )
    assert source(page, STEP_2) == before[1]


def test_everything_has_a_name(visit):
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
