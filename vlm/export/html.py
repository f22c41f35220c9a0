"""A guide as one HTML file: pictures inside, printable, light and dark, all that the model wrote escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from vlm.export.palette import SWATCHES
from vlm.export.text import clean
from vlm.guide import Guide


def to_html(guide: Guide, pictures: Sequence[bytes]) -> str:
    """The page; `pictures` are the steps' PNG files, one a step."""
    environment = Environment(
        loader=PackageLoader("vlm", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["words"] = clean
    sources = ["data:image/png;base64," + b64encode(picture).decode("ascii") for picture in pictures]
    return environment.get_template("guide.html").render(
        guide=guide, steps=list(zip(guide.steps, sources, strict=True)), swatches=SWATCHES
    )
