"""Properties of guides and of what is read, over drawn values: round trips, escaping, one clear error."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import ValidationError

from tests.fuzz.mutate import mutate_json
from tests.guides import STOOL, pictures, stool
from tests.test_export import Page, tree
from vlm.errors import UserError
from vlm.export import save_guide, to_html, to_markdown
from vlm.export.text import clean
from vlm.guide import Guide, Part, Step, Tool
from vlm.prompt import check_prompt

HOSTILE = st.sampled_from(
    [
        "<script>", "</title>", "&amp;", "{{ 7*7 }}", "{% raw %}", "](x)", "![a](b)", "`", "**", "\\", "\\\\", "|", "#",
        "1.", "-", "===", "\u202e", "\u2066", "مقعد", "椅子", "🪑", "\x00", "\x1b[2J", "\u2028", "\t", "\n", "\r\n",
        "  ", "<!--", "&#0;", "https://x.org", "<a@b.c>", "~~", "$x$", "[^1]", ":::", "\ufeff", "\u200b", "'", '"',
    ]
)  # fmt: skip
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.lists(st.one_of(HOSTILE, CHARACTERS), min_size=1, max_size=6).map(" ".join).filter(lambda text: text.strip())
COUNTS = st.integers(1, 999)


@st.composite
def guides(draw: st.DrawFn) -> Guide:
    """Any guide that is valid, its words as hostile as can be."""
    parts = draw(st.lists(st.builds(Part, count=COUNTS, name=WORDS, colour=st.none() | WORDS), max_size=4))
    names = st.sampled_from([part.name for part in parts]) if parts else WORDS
    steps = tuple(
        Step(
            number=number, text=draw(WORDS), image=f"steps/{number:02d}.png", alt=draw(WORDS),
            parts_added=tuple(draw(st.lists(names, max_size=2))), warnings=tuple(draw(st.lists(WORDS, max_size=2))),
        )
        for number in range(1, draw(st.integers(1, 4)) + 1)
    )  # fmt: skip
    return Guide(
        title=draw(WORDS), description=draw(WORDS | st.just("")), parts=tuple(parts),
        tools=tuple(draw(st.lists(st.builds(Tool, name=WORDS, count=st.none() | COUNTS), max_size=3))),
        steps=steps, closing=draw(WORDS | st.just("")), prompt=draw(WORDS), seed=draw(st.integers(0, 2**63 - 1)),
        model=draw(WORDS),
    )  # fmt: skip


@given(guides())
def test_json_round_trip(guide: Guide):
    text = guide.to_json()
    assert Guide.model_validate_json(text) == guide
    assert Guide.model_validate_json(text).to_json() == text


def told(text: str) -> str:
    """What a reader sees of words: white space as it comes does not count."""
    return "".join(text.split())


def expected(guide: Guide) -> list[str]:
    words = [guide.title, guide.description, guide.closing, guide.prompt, guide.model]
    words += [part.name for part in guide.parts] + [tool.name for tool in guide.tools]
    words += [text for step in guide.steps for text in (step.text, *step.warnings)]
    return [told(clean(text)) for text in words]


@given(guides())
def test_html_shows_the_words_and_holds_nothing_else(guide: Guide):
    page = Page(to_html(guide, [b"x"] * len(guide.steps)))
    plain = Page(to_html(stool(), [b"x"] * 3))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert {key for _, attributes in page.tags for key in attributes} <= {
        key for _, attributes in plain.tags for key in attributes
    }
    for words in expected(guide):
        assert words in told(page.text)
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts == [clean(step.alt) for step in guide.steps]


@given(guides())
def test_markdown_shows_the_words_and_holds_nothing_else(guide: Guide):
    page = Page(MarkdownIt("commonmark").render(to_markdown(guide)))
    tags = [tag for tag, _ in page.tags]
    assert set(tags) <= {"h1", "h2", "h3", "p", "ul", "li", "blockquote", "strong", "img", "hr", "br"}
    assert tags.count("h1") == 1 and tags.count("h3") == tags.count("img") == len(guide.steps)
    assert tags.count("li") == len(guide.parts) + len(guide.tools)
    assert tags.count("blockquote") == sum(len(step.warnings) for step in guide.steps)
    for words in expected(guide):
        assert words in told(page.text)


@settings(max_examples=25)
@given(guides())
def test_a_saved_guide_is_the_guide_and_its_bytes_are_its_own(guide: Guide):
    with tempfile.TemporaryDirectory() as name:
        shown = pictures(len(guide.steps))
        save_guide(guide, shown, Path(name) / "a")
        save_guide(guide, shown, Path(name) / "b")
        assert Guide.load(Path(name) / "a") == guide
        assert tree(Path(name) / "a") == tree(Path(name) / "b")


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_damaged_guide_json_is_a_guide_or_a_validation_error(seed: int):
    damaged = mutate_json(random.Random(seed), stool().to_json().encode(), [STOOL.encode()])
    try:
        guide = Guide.model_validate_json(damaged)
    except ValidationError:
        return
    assert Guide.model_validate_json(guide.to_json()) == guide
    to_html(guide, [b""] * len(guide.steps)).encode()


@given(st.text(st.characters(), max_size=60))
def test_a_prompt_is_clean_or_one_line(text: str):
    try:
        prompt = check_prompt(text)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert prompt == text.strip() and prompt.encode("utf-8")
