"""Guides as files: whole, escaped, self-contained, the same bytes each time, never half-written."""

from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.guides import pictures, stool
from vlm.errors import UserError
from vlm.export import save_guide, to_html, to_markdown
from vlm.files import output_file, output_folder
from vlm.png import PictureOrigin, read_origin, write_png

HOSTILE = "<script>alert(1)</script> \"'&amp; {{ 7*7 }} [x](javascript:y) `c` *b* _i_ <img src=x onerror=y> |"


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_folder_is_whole_and_its_bytes_depend_on_the_guide_alone(tmp_path):
    assert save_guide(stool(), pictures(), tmp_path / "a" / "deep") == tmp_path / "a" / "deep" / "guide.html"
    save_guide(stool(), pictures(), tmp_path / "b")
    files = tree(tmp_path / "a" / "deep")
    assert sorted(files) == [
        "guide.html",
        "guide.json",
        "guide.md",
        "steps/01.png",
        "steps/02.png",
        "steps/03.png",
    ]
    assert files == tree(tmp_path / "b")
    assert not list(tmp_path.glob(".*"))


def test_pictures_say_where_they_come_from(tmp_path):
    save_guide(stool(prompt="ein blauer Höcker 🪑\n?"), pictures(), tmp_path / "g")
    origin = read_origin(tmp_path / "g" / "steps" / "02.png")
    assert origin == PictureOrigin("ein blauer Höcker 🪑\n?", 7, "0123456789abcdef", 2)
    plain = tmp_path / "plain.png"
    pictures()[0].save(plain)
    with pytest.raises(UserError, match="does not say"):
        read_origin(plain)


def test_metadata_do_not_change_the_pixels(tmp_path):
    picture = Image.effect_noise((16, 16), 90).convert("RGB")
    write_png(picture, tmp_path / "p.png", PictureOrigin("p", 0, "m", 1))
    assert Image.open(tmp_path / "p.png").tobytes() == picture.tobytes()


def test_the_page_carries_its_pictures_and_loads_nothing():
    page = Page(to_html(stool(), [b"one", b"two", b"three"]))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [base64.b64decode(str(image["src"]).split(",")[1]) for image in images] == [
        b"one",
        b"two",
        b"three",
    ]
    assert all(image["alt"] for image in images)
    addresses = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset")
    ]
    assert all(str(address).startswith("data:image/png;base64,") for address in addresses)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    for words in (
        "Blue stool",
        "3 ×",
        "turned red leg",
        "6 ×",
        "screw",
        "Mind your fingers.",
        "0123456789abcdef",
    ):
        assert words in page.text


def hostile():
    base = stool()
    steps = [
        step.model_dump() | {"text": HOSTILE, "alt": HOSTILE, "warnings": (HOSTILE,)} for step in base.steps
    ]
    parts = [{"count": 1, "name": HOSTILE, "colour": 'red"><script>'}]
    return stool(
        title=HOSTILE, description=HOSTILE, closing=HOSTILE, prompt=HOSTILE, model=HOSTILE,
        parts=parts, tools=[{"name": HOSTILE}], steps=steps,
    )  # fmt: skip


def test_hostile_text_stays_text_in_html():
    page = Page(to_html(hostile(), [b""] * 3))
    assert not {"script", "a", "code", "em"} & {tag for tag, _ in page.tags}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert page.text.count(HOSTILE) >= 10
    assert {attributes["alt"] for tag, attributes in page.tags if tag == "img"} == {HOSTILE}


def test_hostile_text_stays_text_in_markdown():
    html = MarkdownIt("commonmark").render(to_markdown(hostile()))
    page = Page(html)
    assert not {"script", "a", "code", "em"} & {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) >= 10
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["src"] for image in images] == ["steps/01.png", "steps/02.png", "steps/03.png"]


@pytest.mark.parametrize(
    "line", ["1. one", "- dash", "+ plus", "# head", "a\n\n# b", "===", "> quote", "![x](y)"]
)
def test_markdown_lines_do_not_become_blocks(line: str):
    html = MarkdownIt("commonmark").render(to_markdown(stool(description=line, closing=line)))
    assert html.count("<h1>") == 1 and html.count("<img") == 3
    assert "<blockquote>" in html and html.count("<blockquote>") == 1
    assert html.count("<p>" + re.sub(r"\s+", " ", line).replace(">", "&gt;")) == 2


def test_an_occupied_folder_is_refused_and_force_replaces_guides_only(tmp_path):
    target = tmp_path / "g"
    save_guide(stool(), pictures(), target)
    (target / "old.txt").write_text("x")
    with pytest.raises(UserError, match="--force"):
        save_guide(stool(), pictures(), target)
    assert (target / "old.txt").exists()
    save_guide(stool(title="New"), pictures(), target, force=True)
    assert "New" in (target / "guide.md").read_text() and not (target / "old.txt").exists()

    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="does not replace"):
        save_guide(stool(), pictures(), home, force=True)
    with pytest.raises(UserError, match="is a file"):
        save_guide(stool(), pictures(), home / "thesis.txt", force=True)
    assert (home / "thesis.txt").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "home"]


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "g").mkdir()
    save_guide(stool(), pictures(), tmp_path / "g")
    assert (tmp_path / "g" / "guide.json").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), output_folder(tmp_path / "new" / "g", marker="guide.json") as staging:
        (staging / "half").write_text("x")
        raise error
    assert not list(tmp_path.iterdir())

    (tmp_path / "f").write_text("before")
    with pytest.raises(error), output_file(tmp_path / "f") as path:
        path.write_text("half")
        raise error
    assert (tmp_path / "f").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_force_keeps_the_old_guide_if_writing_fails(tmp_path):
    save_guide(stool(), pictures(), tmp_path / "g")
    before = tree(tmp_path / "g")
    with pytest.raises(ValueError, match="got 1 pictures"):
        save_guide(stool(title="New"), pictures(1), tmp_path / "g", force=True)
    assert tree(tmp_path / "g") == before and len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "g", Path("/proc/nowhere/g"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot use|is a file") as caught:
            save_guide(stool(), pictures(), target)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        save_guide(stool(), pictures(), tmp_path / "g")
