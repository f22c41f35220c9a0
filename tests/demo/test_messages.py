"""Events → what is shown: in order, in place, and nothing typed is read as anything but text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo.messages import Answer, Picture, Words, content, described, literal, model_words, typed
from vlm.events import ContextTrimmed, Finished, ImageDone, ImagePreview, ImageStarted, TextDelta


def keeper():
    """A `Keep` that gives each picture a name of its own."""
    numbers = itertools.count()
    return lambda image: f"{next(numbers)}-{image.width}"


def picture(size: int = 4) -> Image.Image:
    return Image.new("RGB", (size, size))


def drawing(index: int, scales: int = 3):
    yield ImageStarted(index, scales)
    for scale in range(scales):
        yield ImagePreview(index, scale, scales, picture(scale + 1))
    yield ImageDone(index, picture(9), None)


def test_a_picture_keeps_its_place_while_it_sharpens():
    answer = Answer(keeper())
    answer.take(TextDelta("1. Lay the"))
    answer.take(TextDelta(" seat.\n"))
    seen = []
    for event in drawing(0):
        answer.take(event)
        words, shown = answer.parts
        assert words == Words("1. Lay the seat.\n")
        seen.append(shown)
    assert len({shown.path for shown in seen}) == 5, "paper, three scales and the finished picture"
    assert [shown.caption for shown in seen] == [
        "Step 1: scale 1 of 3", "Step 1: scale 1 of 3", "Step 1: scale 2 of 3", "Step 1: last details", "Step 1",
    ]  # fmt: skip
    assert seen[-1].alt == "Drawing of step 1: Lay the seat."
    assert all(shown.alt.startswith("Unfinished") for shown in seen[:-1])


def test_text_and_pictures_stay_in_order():
    answer = Answer(keeper())
    for number in range(2):
        answer.take(TextDelta(f"{number + 1}. Step\n"))
        for event in drawing(number):
            answer.take(event)
    answer.take(TextDelta("Done."))
    answer.take(Finished("stop", None))
    assert [type(part) for part in answer.parts] == [Words, Picture, Words, Picture, Words]
    assert [part.caption for part in answer.parts if isinstance(part, Picture)] == ["Step 1", "Step 2"]
    assert answer.reason == "stop"


def test_a_step_drawn_anew_changes_its_own_picture_alone():
    before = [Words("1. A\n"), Picture("a", "A"), Words("2. B\n"), Picture("b", "B")]
    answer = Answer(keeper(), before)
    for event in drawing(0):
        answer.take(event)
    assert answer.parts[1] != before[1]
    assert [answer.parts[at] for at in (0, 2, 3)] == [before[at] for at in (0, 2, 3)]
    assert before[1] == Picture("a", "A"), "what was shown before is not changed in place"


def test_a_picture_out_of_order_is_refused():
    with pytest.raises(ValueError, match="picture 1 begins"):
        Answer(keeper()).take(ImageStarted(1, 3))
    with pytest.raises(ValueError, match="0 have begun"):
        Answer(keeper()).take(ImageDone(0, picture(), None))


def test_without_previews_the_paper_stays_until_the_picture_is_done():
    answer = Answer(keeper())
    answer.take(ImageStarted(0, 2))
    paper = answer.parts[0].path
    answer.take(ImagePreview(0, 0, 2, None))
    assert answer.parts[0].path == paper
    answer.take(ImageDone(0, picture(), None))
    assert answer.parts[0].path != paper


def test_notices_are_sentences():
    answer = Answer(keeper())
    answer.take(ContextTrimmed((0, 2)))
    assert answer.notes == ["The conversation is long: the model no longer sees message 1, 3."]


def test_what_stands_right_before_a_picture_describes_it():
    assert described([], "p") == Picture("p", "Drawing")
    assert described([Words("A red bench:\n")], "p").alt == "Drawing: A red bench:"
    before = [Words("1. A\n"), Picture("a", ""), Words("\n2. Fit it.\nWarning: slowly.\n")]
    assert described(before, "p").caption == "Step 2"


def test_content_has_captions_after_pictures_and_is_never_empty():
    shown = content([Words("\n1. A\n"), Picture("p", "alt", "Step 1"), Words("  \n")], model_words)
    assert shown == [{"text": "1. A"}, {"path": "p", "alt_text": "alt"}, {"text": "*Step 1*"}]
    assert content([], literal) == [{"text": ""}]


@given(st.text())
def test_typed_takes_back_what_literal_made(text: str):
    assert typed(literal(text)) == text


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![x](http://example.org/x.png)",
    "[x](javascript:alert(1))", "`code`", "# title", "**bold**", "- item", "1. item", "a\n===", "&lt;b&gt;", "    code",
    "<|boi|>", "$x$", "a\r# title", "a\r\n> b", "\tcode", "12) item", "a | b\n--|--\nc | d", "~~x~~", "&copy &#33;",
    "a\n1.\nb", "\\*x\\*", "<!-- x -->",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_visitor_types_is_shown_as_it_was_typed(text: str):
    """Rendered as Markdown with raw HTML allowed, the worst case, one paragraph of the same text comes of it."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark", {"html": True}).parse(literal(text))
    assert {token.type for token in tokens} == {"paragraph_open", "inline", "paragraph_close"}
    children = [child for token in tokens for child in token.children or []]
    assert {child.type for child in children} <= {"text", "softbreak"}, "no HTML, no link, no picture, no emphasis"
    said = "".join("\n" if child.type == "softbreak" else child.content for child in children)
    assert said.split() == text.split()


@pytest.mark.parametrize("text", ["Wow! It's #1: $5 & more (3 > 2), 4. Isn't it? a.b=c;", "x-y + z = 1.5", "2 < 3!"])
def test_plain_sentences_are_edited_and_copied_as_they_were_typed(text: str):
    assert literal(text) == text


@pytest.mark.parametrize("text", HOSTILE[:4])
def test_the_model_cannot_write_html_links_or_pictures(text: str):
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("commonmark", {"html": True}).render(model_words(text))
    assert not any(tag in rendered for tag in ("<script", "<img", "<a "))


def test_the_models_headings_and_lists_stay():
    assert model_words("# Title\n- 3 x leg\n1. Fit it.") == "# Title\n- 3 x leg\n1. Fit it."
