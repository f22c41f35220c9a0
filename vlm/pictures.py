"""Pictures: a stranger's file made safe, between PIL and tensors, and how far two are apart.

A file is judged by its content, never by its name, and by its header before a pixel is decoded.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from vlm.errors import UserError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
MAX_PIXELS = 50_000_000
MAX_BYTES = 64_000_000

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of the EXIF orientation (CIPA DC-008, tag 0x0112)."""


def open_picture(
    source: Path | str | bytes | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """A PNG, JPEG, GIF, WebP or BMP file as an upright RGB picture, at its own size.

    source: a path, a file's content, or an open binary file, read from where it stands. 16-bit channels keep
    their upper 8 bits, CMYK and palettes become RGB, transparent pixels show `background`, and the EXIF
    orientation is applied (one that cannot be read is none). An animation is refused, since no still picture
    stands for it; the further pictures that some cameras hide in a JPEG are not looked at.

    Raises `UserError`, one line, for a file that is missing, no picture, damaged, truncated or animated, of
    more than `max_bytes`, or of more than `max_pixels`; pixels are counted before any is decoded.
    """
    name, content = _content(source, max_bytes)
    # Pillow warns of bombs that our limit refuses, and of damage that it passes over.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_header(image, name, max_pixels)
                image.load()
                return _rgb(_upright(image), background)
        except UserError:
            raise
        except UnidentifiedImageError as error:
            raise UserError(f"{name} is no picture that can be read, expected {', '.join(FORMATS)}") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"{name} has too many pixels, expected at most {max_pixels:,}; scale it down") from error
        # A decoder of a damaged file raises what it likes: OSError, SyntaxError, struct.error, IndexError …
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name} is a damaged picture ({reason}); save it again") from error


def _content(source: Path | str | bytes | BinaryIO, max_bytes: int) -> tuple[str, bytes]:
    """What to call the picture in a message, and its bytes."""
    if isinstance(source, bytes):
        name, content = "the picture", source
    elif isinstance(source, str | Path):
        name = str(source) if str(source).isprintable() else repr(str(source))
        try:
            # A pipe or a device may never end, so only regular files are opened.
            if not stat.S_ISREG(os.stat(source).st_mode):
                raise UserError(f"{name} is no file, expected a picture")
            with open(source, "rb") as stream:
                content = stream.read(max_bytes + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {name} ({reason}), expected a picture") from error
    else:
        name, content = "the picture", source.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{name} has more than {max_bytes:,} bytes, expected a smaller picture")
    if not content:
        raise UserError(f"{name} is empty, expected a picture")
    return name, content


def _check_header(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UserError(
            f"{name} has {image.width:,} x {image.height:,} pixels, expected at most {max_pixels:,}; scale it down"
        )
    if image.width < 1 or image.height < 1:
        raise UserError(f"{name} has no pixels, expected a picture")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UserError(f"{name} is animated, expected a still picture; save one of its frames")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # As above: whatever a damaged EXIF block makes its reader raise, the pixels are whole.
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image.transpose(method) if method is not None else image


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of dropping the lower byte.
        values = np.asarray(image).astype(np.int64)
        clear = image.info.get("transparency")
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (*background, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size → (B, 3, H, W) float32 in [-1, 1]."""
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.uint8) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] → RGB pictures."""
    array = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in array]


def psnr(decoded: Tensor, pixels: Tensor) -> Tensor:
    """(B,) decibels between pictures in [-1, 1]."""
    return 10 * torch.log10(4 / (decoded - pixels).square().flatten(1).mean(1).clamp_min(1e-10))
