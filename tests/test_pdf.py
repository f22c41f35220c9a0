"""The PDF: its pages, what is on them, and that no words of the model's can break them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guides import stool
from tests.test_export import HOSTILE
from vlm.export import to_pdf
from vlm.export.pdf import FONTS
from vlm.export.text import breakable, clean, drawable, is_rtl, shorten
from vlm.guide import Guide

FOLDER = Path(__file__).parents[1] / "vlm" / "export" / "fonts"
HELD_OUT = Path(__file__).parents[1] / "docs" / "held-out"
PICTURES = [(HELD_OUT / f"000-{number}.png").read_bytes() for number in (1, 2, 3)]
MILLIMETRE = 72 / 25.4


def steps(*texts: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"number": number, "text": text, "image": f"{number}.png", "alt": f"Picture {number}"} | more
        for number, text in enumerate(texts, start=1)
    ]


def document(guide: Guide, paper: Any = "a4") -> pypdfium2.PdfDocument:
    pictures = [PICTURES[step.number % 3] for step in guide.steps]
    return pypdfium2.PdfDocument(to_pdf(guide, pictures, paper))


def words(pages: pypdfium2.PdfDocument) -> list[str]:
    """Each page's words, joined by single spaces."""
    return [" ".join(page.get_textpage().get_text_bounded().replace("\u200b", "").split()) for page in pages]


def test_the_same_guide_gives_the_same_bytes():
    assert to_pdf(stool(), PICTURES) == to_pdf(stool(), PICTURES)
    assert to_pdf(stool(), PICTURES) != to_pdf(stool(seed=8), PICTURES)


@pytest.mark.parametrize(("paper", "size"), [("a4", (595.28, 841.89)), ("us-letter", (612, 792))])
def test_a_page_has_its_paper_and_its_number(paper: str, size: tuple[float, float]):
    pages = document(stool(steps=steps(*["Do this."] * 9)), paper)
    assert len(pages) >= 2
    for number, (page, text) in enumerate(zip(pages, words(pages), strict=True), start=1):
        assert page.get_size() == pytest.approx(size, abs=0.1)
        assert text.endswith(f"{number} / {len(pages)}")


def test_everything_is_on_the_pages():
    text = " ".join(words(document(stool())))
    for wanted in (
        "Blue stool", "A small stool.", "Parts", "1 × round blue seat", "3 × turned red leg", "added in step 2",
        "Tools", "screwdriver", "6 × screw", "Steps", "1 Lay the seat", "2 Fit 2 turned red legs.",
        "Mind your fingers.", "Your stool is ready.", "“a blue stool?”", "seed 7", "0123456789abcdef",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_parts_are_shown_by_the_picture_that_adds_them():
    def images(guide: Guide) -> int:
        kinds = [pdfium.FPDF_PAGEOBJ_IMAGE]
        return sum(1 for page in document(guide) for _ in page.get_objects(filter=kinds, max_depth=9))

    assert images(stool()) == 3 + 2
    assert images(stool(parts=())) == 3


def test_empty_lists_leave_no_headings():
    text, *_ = words(document(stool(parts=(), tools=(), description="", closing="")))
    assert "Parts" not in text and "Tools" not in text and "Steps" in text


@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_never_split(seed: int):
    rng = random.Random(seed)
    texts = [
        f"first{number}q " + "word " * rng.choice((0, 3, 30, 75, 90, 300, 700)) + f"last{number}q"
        for number in range(12)
    ]
    guide = stool(steps=steps(*texts, warnings=("Mind the edge.",)), parts=stool().parts * rng.randint(0, 12))
    pages = words(document(guide, rng.choice(("a4", "us-letter"))))
    for number in range(12):
        where = [index for index, page in enumerate(pages) if f"first{number}q" in page]
        assert len(where) == 1 and f"last{number}q" in pages[where[0]]
    assert sum(page.count("Mind the edge.") for page in pages) == 12


def test_a_step_that_fits_no_page_loses_no_word():
    text = " ".join(f"w{number}" for number in range(700))
    guide = stool(steps=steps(text, warnings=(text,) * 20))
    told = " ".join(words(document(guide))).split()
    assert all(told.count(f"w{number}") == 21 for number in range(0, 700, 50))


def test_long_words_stay_inside_the_margins():
    long = "W" * 300
    guide = stool(
        title=long, description=long, closing=long, prompt=long, model=long, tools=[{"name": long, "count": 999}],
        parts=[{"count": 999, "name": long}] * 5, steps=steps(long, long, warnings=(long,)),
    )  # fmt: skip
    for page in document(guide):
        width, _ = page.get_size()
        told = page.get_textpage()
        for index in range(told.count_chars()):
            if told.get_text_range(index, 1).strip():
                left, _, right, _ = told.get_charbox(index)
                assert 17 * MILLIMETRE < left and right < width - 17 * MILLIMETRE


def test_markup_stays_words():
    markup = '#set page(fill: red) #import "/etc/passwd" *b* _i_ `r` $x$ <l> @r \\ // /* = - + 1. ~ [c] \'" ' + HOSTILE
    guide = stool(
        title=markup, steps=steps(markup), tools=[{"name": markup}], parts=[{"count": 1, "name": markup}]
    )
    told = "".join("".join(words(document(guide))).split())
    assert told.count("".join(markup.split())) == 4


SCRIPTS = {
    "german": "Höcker für Möbel — „ähnlich“", "greek": "Ωμέγα καρέκλα", "russian": "Закрепите ножки",
    "japanese": "座面を布の上に置き", "korean": "좌판을 천 위에", "chinese": "把座面放在布上",
    "thai": "วางที่นั่ง", "hindi": "सीट", "georgian": "სკამი", "armenian": "աթոռ", "emoji": "🪑🔩✅",
    "math": "∑ ½ → ≤ ×", "box": "┌─┐",
}  # fmt: skip


def test_every_script_is_drawn_and_can_be_copied():
    told = words(document(stool(steps=steps(*SCRIPTS.values()))))
    missing = [name for name, text in SCRIPTS.items() if name not in ("hindi", "thai") and text not in " ".join(told)]
    assert missing == []
    assert "[U+" not in " ".join(told)


def test_what_no_font_has_is_spelt_by_number():
    text, *_ = words(document(stool(title="Eye 𓂀, private \ue000, nul \x00")))
    assert "Eye [U+13080], private [U+E000], nul \ufffd" in text


def test_right_to_left_text_begins_at_the_right():
    arabic = "ضع المقعد على الأرض"
    (page,) = document(stool(title=arabic, description="", parts=(), tools=(), steps=steps("Now.")))
    told = page.get_textpage()
    boxes = [told.get_charbox(index) for index in range(len(arabic)) if told.get_text_range(index, 1).strip()]
    width, _ = page.get_size()
    assert max(right for _, _, right, _ in boxes) == pytest.approx(width - 18 * MILLIMETRE, abs=3 * MILLIMETRE)


def test_fonts_are_whole_and_the_coverage_is_theirs():
    covered: set[int] = set()
    families = set()
    for path in sorted(FOLDER.glob("*.ttf")):
        font = TTFont(path, lazy=True)
        families.add(font["name"].getDebugName(1))
        if "Bold" not in path.name:
            covered |= {code for code in font.getBestCmap() if code >= 0x20}
    assert families == set(FONTS)
    told: set[int] = set()
    for line in (FOLDER / "coverage.txt").read_text().split():
        first, last = (int(end, 16) for end in line.split("-"))
        told |= set(range(first, last + 1))
    assert told == covered


@settings(max_examples=25)
@given(st.text(min_size=1, max_size=200).filter(lambda text: text.strip()))
def test_any_words_make_a_pdf(text: str):
    guide = stool(title=text, description=text, closing=text, prompt=text, steps=steps(text, warnings=(text,)))
    pages = document(guide)
    assert words(pages)[-1].endswith(f"{len(pages)} / {len(pages)}")


@given(st.text(max_size=300))
def test_text_helpers(text: str):
    tidy = clean(text)
    tidy.encode("utf-8")
    assert clean(tidy) == tidy and "\n" not in tidy
    assert breakable(tidy).replace("\u200b", "") == tidy.replace("\u200b", "")
    assert len(shorten(tidy, 20)) <= 20 and (len(tidy) > 20 or shorten(tidy, 20) == tidy)
    assert drawable(drawable(tidy)) == drawable(tidy)


def test_breaks_do_not_cut_clusters():
    family = "👩\u200d👩\u200d👧\u200d👦" * 8
    flags = "🇯🇵" * 20
    marks = "e\u0301" * 40
    for text, cluster in ((family, "👩\u200d👩\u200d👧\u200d👦"), (flags, "🇯🇵"), (marks, "e\u0301")):
        pieces = breakable(text).split("\u200b")
        assert all(piece == cluster * (len(piece) // len(cluster)) for piece in pieces)
        assert shorten(text, 30)[:-1] == cluster * (len(shorten(text, 30)) // len(cluster))
    assert breakable("วางที่นั่งบนผ้าแล้วใส่ขาสามขาอย่าขันแน่น") == "วางที่นั่งบนผ้าแล้วใส่ขาสามขาอย่าขันแน่น"


def test_direction_is_that_of_the_first_strong_character():
    assert is_rtl("123 مقعد stool") and is_rtl("… מושב") and not is_rtl("stool مقعد") and not is_rtl("12 …")
