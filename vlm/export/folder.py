"""A guide's folder, written whole or not at all: guide.json, guide.md, guide.html, steps/01.png …"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlm.export.html import to_html
from vlm.export.markdown import to_markdown
from vlm.files import output_folder
from vlm.guide import GUIDE_FILE, Guide
from vlm.png import PictureOrigin, write_png


def save_guide(guide: Guide, pictures: Sequence[Image.Image], folder: Path, *, force: bool = False) -> Path:
    """Write `guide` with its steps' `pictures` (mode "RGB") to `folder`; return the path of its HTML page.

    Raises `UserError` if the folder cannot be written or is not empty; `force` replaces an earlier guide.
    """
    with output_folder(folder, marker=GUIDE_FILE, force=force) as staging:
        fill_folder(guide, pictures, staging)
    return Path(folder) / "guide.html"


def fill_folder(guide: Guide, pictures: Sequence[Image.Image], folder: Path) -> None:
    """Write the files of `guide` into the existing, empty `folder`."""
    if len(pictures) != len(guide.steps):
        raise ValueError(f"got {len(pictures)} pictures, expected one for each of {len(guide.steps)} steps")
    encoded = []
    for step, picture in zip(guide.steps, pictures, strict=True):
        path = folder / step.image
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(picture, path, PictureOrigin(guide.prompt, guide.seed, guide.model, step.number))
        encoded.append(path.read_bytes())
    (folder / GUIDE_FILE).write_text(guide.to_json(), encoding="utf-8", newline="\n")
    (folder / "guide.md").write_text(to_markdown(guide), encoding="utf-8", newline="\n")
    (folder / "guide.html").write_text(to_html(guide, encoded), encoding="utf-8", newline="\n")
