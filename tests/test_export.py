"""Guides as files: whole, escaped, self-contained, the same bytes each time, never half-written."""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.guides import pictures, stool
from vlm.errors import UserError
from vlm.export import FORMATS, parse_formats, save_guide, to_html, to_markdown, to_zip
from vlm.export.folder import destination
from vlm.files import output_file, output_folder
from vlm.guide import Guide
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


PICTURES = ["steps/01.png", "steps/02.png", "steps/03.png"]


@pytest.mark.parametrize(
    ("formats", "first", "files"),
    [
        (None, "guide.html", ["guide.html", "guide.json", "guide.md"]),
        (("html",), "guide.html", ["guide.html", "guide.json"]),
        (("json",), "guide.json", ["guide.json"]),
        (("md", "pdf"), "guide.pdf", ["guide-letter.pdf", "guide.json", "guide.md", "guide.pdf"]),
        (("zip",), "guide.zip", ["guide.json", "guide.zip"]),
    ],
)
def test_a_folder_holds_the_formats_and_what_they_can_be_made_from(tmp_path, formats, first, files):
    assert save_guide(stool(), pictures(), tmp_path / "g", formats) == tmp_path / "g" / first
    assert sorted(tree(tmp_path / "g")) == files + PICTURES
    assert Guide.load(tmp_path / "g") == stool()


def test_the_zip_holds_every_form_and_its_bytes_depend_on_the_guide_alone(tmp_path):
    save_guide(stool(), pictures(), tmp_path / "all", FORMATS)
    files = tree(tmp_path / "all")
    packed = files.pop("guide.zip")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
        assert archive.namelist() == sorted(files)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert save_guide(stool(), pictures(), tmp_path / "one.zip") == tmp_path / "one.zip"
    assert (tmp_path / "one.zip").read_bytes() == packed
    assert to_zip(dict(reversed(files.items()))) == packed


@pytest.mark.parametrize("name", ["g.html", "g.pdf", "G.PDF", "g.zip"])
def test_one_file_by_its_ending(tmp_path, name: str):
    assert save_guide(stool(), pictures(), tmp_path / name) == tmp_path / name
    before = (tmp_path / name).read_bytes()
    assert before[:4] in (b"<!do", b"%PDF", b"PK\x03\x04")
    with pytest.raises(UserError, match="exists"):
        save_guide(stool(title="New"), pictures(), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    save_guide(stool(title="New"), pictures(), tmp_path / name, force=True)
    assert (tmp_path / name).read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_targets_and_formats_that_do_not_go_together(tmp_path):
    for name in ("g.md", "g.json"):
        with pytest.raises(UserError, match="pictures beside it"):
            save_guide(stool(), pictures(), tmp_path / name)
    with pytest.raises(UserError, match="one pdf file"):
        save_guide(stool(), pictures(), tmp_path / "g.pdf", ("html",))
    with pytest.raises(UserError, match="format 'docx' is unknown"):
        save_guide(stool(), pictures(), tmp_path / "g", ("html", "docx"))
    assert not list(tmp_path.iterdir())


def test_formats_are_a_list_in_words():
    assert parse_formats(" PDF,html, pdf") == ("pdf", "html")
    for text in ("", " , "):
        with pytest.raises(UserError, match="no format is named, expected some of html,pdf,md,json,zip"):
            parse_formats(text)


def test_a_place_that_is_taken_is_known_before_the_guide_is(tmp_path):
    (tmp_path / "g.pdf").write_text("x")
    with pytest.raises(UserError, match="exists"), destination(tmp_path / "g.pdf"):
        pytest.fail("entered")


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX")
@pytest.mark.parametrize("target", ["g", "g.pdf", "g.zip", "g.html"])
@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, target: str, old: bool):
    formats = ("html", "md", "json", "zip") if target == "g" else None
    if old:
        save_guide(stool(), pictures(), tmp_path / target, formats)
    before = tree(tmp_path)
    noise = [Image.effect_noise((64, 64), 90 + number).convert("RGB") for number in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The pictures alone fit; a page of all three does not. As on a full disk, the write itself fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*nothing was written") as caught:
            save_guide(stool(title="New"), noise, tmp_path / target, formats, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_empty_lists_leave_no_headings():
    bare = stool(parts=(), tools=(), description="", closing="")
    page = Page(to_html(bare, [b""] * 3))
    assert "kit" not in {attributes.get("class") for tag, attributes in page.tags}
    assert "Parts" not in page.text and "Tools" not in page.text
    text = to_markdown(bare)
    assert "## Parts" not in text and "## Tools" not in text and text.count("![") == 3
    assert "Parts" in to_markdown(stool(tools=())) and "Tools" in to_html(stool(parts=()), [b""] * 3)


def test_control_characters_become_visible_and_directions_stay_inside():
    page = Page(to_html(stool(title="a\x00b\x1b[31mc\ufffe\td\n e"), [b""] * 3))
    assert "a\ufffdb\ufffd[31mc\ufffd d e" in page.text
    free = [
        attributes.get("class") for tag, attributes in page.tags
        if tag in ("h1", "p") and attributes.get("class") not in (None, "closing") and attributes.get("dir") != "auto"
    ]  # fmt: skip
    assert free == []
