"""PNG files that say where they come from; knows nothing of guides or models.

The metadata are `iTXt` chunks (UTF-8), so any prompt survives. There is no clock in them: the same picture
and origin give the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from vlm.errors import UserError

MAX_PIXELS = 4096 * 4096


@dataclass(frozen=True)
class PictureOrigin:
    """How a picture came to be: prompt and seed (of its answer, or of its own
    redrawing), the model's fingerprint, the step it shows."""

    prompt: str
    seed: int
    model: str
    step: int


def write_png(image: Image.Image, path: Path, origin: PictureOrigin) -> None:
    """Write `image` (mode "RGB") to `path` with `origin` in its metadata."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Software", "hart-vlm")
    for key, value in asdict(origin).items():
        info.add_itxt(key, str(value))
    image.convert("RGB").save(path, format="PNG", pnginfo=info, optimize=True)


def open_png(path: Path) -> Image.Image:
    """The picture at `path`, decoded. Raises `UserError` if it is missing, no PNG, damaged or huge."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path} has {image.width} x {image.height} pixels, expected at most {MAX_PIXELS:,}"
                )
            image.load()
            return image
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, expected a PNG picture; write the guide again") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no readable PNG picture ({error}); write the guide again") from error


def read_origin(path: Path) -> PictureOrigin:
    """The origin in the metadata of the PNG at `path`. Raises `UserError` if there is none."""
    text = getattr(open_png(path), "text", {})
    try:
        return PictureOrigin(text["prompt"], int(text["seed"]), text["model"], int(text["step"]))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not say where it comes from (no {error} in its metadata)") from error
