"""Where a guide is saved: a folder of its forms or one file, written whole or not at all.

A folder always holds guide.json and the pictures (steps/01.png …), from which every other form can be made
again; the formats say what lies beside them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from PIL import Image

from vlm.errors import UserError
from vlm.export.archive import to_zip
from vlm.export.html import to_html
from vlm.export.markdown import to_markdown
from vlm.export.pdf import to_pdf
from vlm.files import output_file, output_folder
from vlm.guide import GUIDE_FILE, Guide
from vlm.png import PictureOrigin, write_png

FORMATS = ("html", "pdf", "md", "json", "zip")
DEFAULT_FORMATS = ("html", "md", "json")

_FILES = {
    "html": "guide.html",
    "pdf": "guide.pdf",
    "md": "guide.md",
    "json": GUIDE_FILE,
    "zip": "guide.zip",
}
_LETTER = "guide-letter.pdf"
_ONE_FILE = ("html", "pdf", "zip")


class Writer(Protocol):
    """Writes a guide; the arguments are those of `save_guide`."""

    def __call__(
        self,
        guide: Guide,
        pictures: Sequence[Image.Image],
        *,
        seeds: Sequence[int] | None = None,
        beside: Mapping[str, str] | None = None,
    ) -> None: ...


def parse_formats(text: str) -> tuple[str, ...]:
    """"html, pdf" → ("html", "pdf"). Raises `UserError` for an unknown format or none."""
    formats = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
    unknown = [word for word in formats if word not in FORMATS]
    if unknown or not formats:
        found = f"the format {unknown[0]!r} is unknown" if unknown else "no format is named"
        raise UserError(f"{found}, expected some of {','.join(FORMATS)}")
    return formats


def save_guide(
    guide: Guide,
    pictures: Sequence[Image.Image],
    target: Path | str,
    formats: Sequence[str] | None = None,
    force: bool = False,
    *,
    seeds: Sequence[int] | None = None,
    beside: Mapping[str, str] | None = None,
    advice: str = "",
) -> Path:
    """Write `guide` with its steps' `pictures` (mode "RGB") to `target`; return the path of its first form.

    target: a folder, or one file by its ending (.html, .pdf for A4, .zip of all forms). formats: some of
    `FORMATS` for a folder, by default `DEFAULT_FORMATS`; "pdf" is guide.pdf (A4) and guide-letter.pdf.
    seeds: of the steps' pictures, for their metadata, where they are not all the guide's. beside: names and texts of
    further files that a folder or a zip gets. The bytes depend on what is given alone. Raises `UserError` where the
    target cannot be written or is taken; `force` replaces an earlier guide. advice: what to do then, where there is no
    --force.
    """
    with destination(target, formats, force, advice) as write:
        write(guide, pictures, seeds=seeds, beside=beside)
    return first_file(target, formats)


def first_file(target: Path | str, formats: Sequence[str] | None = None) -> Path:
    """The file that a person opens first of a guide saved by `save_guide`."""
    target = Path(target)
    if _kind(target):
        return target
    formats = formats or DEFAULT_FORMATS
    return target / next(_FILES[name] for name in FORMATS if name in formats)


@contextmanager
def destination(
    target: Path | str, formats: Sequence[str] | None = None, force: bool = False, advice: str = ""
) -> Iterator[Writer]:
    """Yield what writes a guide; on leaving without an error it is at `target`, see `save_guide`.

    Entering already proves that the place can be written, so no drawing is lost to it.
    """
    target = Path(target)
    if formats is not None:
        parse_formats(",".join(formats))
    kind = _kind(target)
    if kind is None:
        with output_folder(target, marker=GUIDE_FILE, force=force, advice=advice) as staging:
            yield _reporting(target, lambda *given: _fill_folder(staging, formats, *given))
        return
    if formats is not None and tuple(formats) != (kind,):
        raise UserError(f"{target} is one {kind} file, expected a folder for the formats {','.join(formats)}")
    if os.path.lexists(target) and not os.path.isdir(target) and not force:
        raise UserError(f"{target} exists; {advice or 'choose another place, or pass --force to replace it'}")
    with output_file(target) as path:
        yield _reporting(target, lambda *given: _fill_file(path, kind, *given))


def _fill_folder(
    folder: Path,
    formats: Sequence[str] | None,
    guide: Guide,
    pictures: Sequence[Image.Image],
    seeds: Sequence[int] | None,
    beside: Mapping[str, str],
) -> None:
    formats = formats or DEFAULT_FORMATS
    steps = _write_steps(guide, pictures, seeds, folder)
    more = {name: text.encode("utf-8") for name, text in beside.items()}
    files = _forms(guide, list(steps.values()), FORMATS if "zip" in formats else formats)
    if "zip" in formats:
        (folder / _FILES["zip"]).write_bytes(to_zip(files | steps | more))
    kept = {_FILES[name] for name in formats} | {GUIDE_FILE} | ({_LETTER} if "pdf" in formats else set())
    for name, content in ({name: files[name] for name in kept & files.keys()} | more).items():
        (folder / name).write_bytes(content)


def _fill_file(
    path: Path,
    kind: str,
    guide: Guide,
    pictures: Sequence[Image.Image],
    seeds: Sequence[int] | None,
    beside: Mapping[str, str],
) -> None:
    with tempfile.TemporaryDirectory(prefix="vlm.") as scratch:
        steps = _write_steps(guide, pictures, seeds, Path(scratch))
    if kind == "zip":
        more = {name: text.encode("utf-8") for name, text in beside.items()}
        content = to_zip(_forms(guide, list(steps.values()), FORMATS) | steps | more)
    else:
        content = _forms(guide, list(steps.values()), (kind,))[_FILES[kind]]
    path.write_bytes(content)


def _write_steps(
    guide: Guide, pictures: Sequence[Image.Image], seeds: Sequence[int] | None, folder: Path
) -> dict[str, bytes]:
    """Write the steps' PNGs; name and content of each, in the order of the steps.

    Raises ValueError unless there is a picture, and a seed where any is given, for each step.
    """
    seeds = [guide.seed] * len(guide.steps) if seeds is None else seeds
    if len(pictures) != len(guide.steps):
        raise ValueError(f"got {len(pictures)} pictures, expected one for each of {len(guide.steps)} steps")
    written = {}
    for step, picture, seed in zip(guide.steps, pictures, seeds, strict=True):
        path = folder / step.image
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(picture, path, PictureOrigin(guide.prompt, seed, guide.model, step.number))
        written[step.image] = path.read_bytes()
    return written


def _forms(guide: Guide, steps: Sequence[bytes], formats: Sequence[str]) -> dict[str, bytes]:
    """Name and content of the guide's forms, guide.json always among them; pictures and the zip are not."""
    files = {GUIDE_FILE: guide.to_json().encode("utf-8")}
    if "html" in formats:
        files[_FILES["html"]] = to_html(guide, steps).encode("utf-8")
    if "pdf" in formats:
        files[_FILES["pdf"]] = to_pdf(guide, steps, "a4")
        files[_LETTER] = to_pdf(guide, steps, "us-letter")
    if "md" in formats:
        files[_FILES["md"]] = to_markdown(guide).encode("utf-8")
    return files


def _kind(target: Path) -> str | None:
    """The format of a target that is one file by its ending; None for a folder."""
    ending = target.suffix.lower().removeprefix(".")
    if ending in ("md", "json"):
        raise UserError(
            f"{target} would keep its pictures beside it, expected a folder, or a file ending in "
            ".html, .pdf or .zip"
        )
    return ending if ending in _ONE_FILE else None


Fill = Callable[[Guide, Sequence[Image.Image], Sequence[int] | None, Mapping[str, str]], None]


def _reporting(target: Path, write: Fill) -> Writer:
    """`write`, with a full disk and its like as a `UserError`."""

    def reported(
        guide: Guide,
        pictures: Sequence[Image.Image],
        *,
        seeds: Sequence[int] | None = None,
        beside: Mapping[str, str] | None = None,
    ) -> None:
        try:
            write(guide, pictures, seeds, beside or {})
        except OSError as error:
            raise UserError(
                f"cannot write {target} ({error.strerror or error}); nothing was written, choose another place"
            ) from error

    return reported
