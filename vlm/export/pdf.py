"""A guide as a PDF to print, A4 or Letter: set by Typst from vlm/templates/guide.typ in the packaged fonts alone.

No clock, no font of the system and no network is used, so one guide gives the same bytes with the same
version of Typst. The pages are tagged, pictures carry their alternative text.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from vlm.export.palette import SWATCHES
from vlm.export.text import LONGEST_WORD, breakable, clean, drawable, is_rtl, shorten
from vlm.guide import Guide, Step

if TYPE_CHECKING:
    import typst

Paper = Literal["a4", "us-letter"]

WIDE_STEP = 260
"""Characters of a step's words from which it gets the whole width of a page, its words beside its picture."""

TILE_WORD = 15
"""`LONGEST_WORD` for the narrow tiles of the parts."""

FONTS = (
    "Noto Sans", "Noto Sans Arabic", "Noto Sans Armenian", "Noto Sans Bengali", "Noto Sans CanAborig",
    "Noto Sans Cherokee", "Noto Sans Devanagari", "Noto Sans Ethiopic", "Noto Sans Georgian",
    "Noto Sans Gujarati", "Noto Sans Gurmukhi", "Noto Sans Hebrew", "Noto Sans Kannada", "Noto Sans Khmer",
    "Noto Sans Lao", "Noto Sans Malayalam", "Noto Sans Myanmar", "Noto Sans NKo", "Noto Sans Oriya",
    "Noto Sans Sinhala", "Noto Sans Syriac", "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thaana",
    "Noto Sans Thai", "Noto Sans Tifinagh", "Noto Sans Yi", "Noto Serif Tibetan", "Droid Sans Fallback",
    "Noto Emoji", "Noto Sans Symbols", "Noto Sans Symbols2", "Noto Sans Math", "Noto Sans Mono",
)  # fmt: skip
"""Families of vlm/export/fonts in the order in which they are asked for a character."""


def to_pdf(guide: Guide, pictures: Sequence[bytes], paper: Paper = "a4") -> bytes:
    """The PDF; `pictures` are the steps' PNG files, one a step. Raises ValueError for another number of them."""
    import typst

    with tempfile.TemporaryDirectory(prefix="vlm.") as name:
        folder = Path(name)
        ratios = []
        for number, picture in enumerate(pictures, start=1):
            path = folder / f"{number}.png"
            path.write_bytes(picture)
            with Image.open(path) as image:
                ratios.append(image.height / image.width)
        (folder / "data.json").write_text(json.dumps(_data(guide, ratios, paper)), encoding="utf-8")
        template = (resources.files("vlm") / "templates" / "guide.typ").read_bytes()
        (folder / "main.typ").write_bytes(template)
        compiled = typst.compile(
            folder / "main.typ", root=folder, font_paths=_fonts(), ignore_system_fonts=True, format="pdf"
        )
    assert isinstance(compiled, bytes)
    return compiled


@cache
def _fonts() -> typst.Fonts:
    import typst

    folder = Path(str(resources.files("vlm.export") / "fonts"))
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[folder])


def _data(guide: Guide, ratios: Sequence[float], paper: Paper) -> dict[str, Any]:
    steps = [_step(step, ratio) for step, ratio in zip(guide.steps, ratios, strict=True)]
    first: dict[str, dict[str, Any]] = {}
    for step, shown in zip(guide.steps, steps, strict=True):
        for name in step.parts_added:
            first.setdefault(name, shown)
    parts = []
    for part in guide.parts:
        found = first.get(part.name)
        parts.append(
            {
                "count": part.count,
                "name": _words(part.name, TILE_WORD),
                "swatch": SWATCHES.get(part.colour or ""),
                "image": found["image"] if found else None,
                "ratio": found["ratio"] if found else 1.0,
                "alt": found["alt"] if found else "",
                "step": found["number"] if found else None,
            }
        )
    title = clean(guide.title)
    return {
        "paper": paper,
        "fonts": FONTS,
        "title": _words(title),
        "title_points": _title_points(title),
        "short_title": shorten(title, 70),
        "footer": _words(shorten(title, 70)),
        "description": _words(guide.description),
        "parts": parts,
        "part_pictures": any(part["image"] for part in parts),
        "tools": [{"count": tool.count, "name": _words(tool.name)} for tool in guide.tools],
        "rows": list(_rows(steps)),
        "closing": _words(guide.closing),
        "prompt": _words(guide.prompt),
        "origin": f"Written and drawn by hart-vlm · seed {guide.seed} · model {_words(guide.model)['text']}",
    }


def _step(step: Step, ratio: float) -> dict[str, Any]:
    length = len(step.text) + sum(map(len, step.warnings))
    return {
        "number": step.number,
        "text": _words(step.text),
        "warnings": [_words(warning) for warning in step.warnings],
        "image": f"{step.number}.png",
        "ratio": ratio,
        "alt": clean(step.alt),
        "wide": length > WIDE_STEP,
    }


def _rows(steps: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Short steps by threes, a long one alone."""
    row: list[dict[str, Any]] = []
    for step in steps:
        if step["wide"]:
            if row:
                yield row
            yield [step]
            row = []
            continue
        row.append(step)
        if len(row) == 3:
            yield row
            row = []
    if row:
        yield row


def _title_points(title: str) -> int:
    if len(title) <= 60 and max(map(len, title.split()), default=0) <= 15:
        return 30
    return 20 if len(title) <= 240 else 12


def _words(text: str, longest: int = LONGEST_WORD) -> dict[str, Any]:
    text = clean(text)
    return {"text": breakable(drawable(text), longest), "rtl": is_rtl(text)}
