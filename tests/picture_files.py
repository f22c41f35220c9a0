"""Small picture files of every kind, as bytes, for the tests of what opens them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(width: int = 8, height: int = 6) -> Image.Image:
    """An RGB picture without symmetry: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 250, width), np.linspace(0, 250, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(header: bytes, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of raw parts: width, height, depth, colour type and so on; rows with their filter bytes; other chunks."""
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def grey16(values: list[int], *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row of 16-bit grey."""
    header = struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0)
    return png(header, b"\0" + struct.pack(f">{len(values)}H", *values), *more)


def huge_png(width: int = 20_000, height: int = 10_000) -> bytes:
    """A small file whose header promises 200 megapixels, and whose data are a few."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), bytes(60_001))


def animation(kind: str) -> bytes:
    """Two frames."""
    frames = [gradient(), gradient().rotate(180)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def samples() -> dict[str, bytes]:
    """A whole file of each kind that is read."""
    picture = gradient()
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb.png": encoded(picture),
        "alpha.png": encoded(alpha),
        "palette.png": encoded(picture.quantize(16)),
        "clear-palette.png": encoded(picture.quantize(16), transparency=3),
        "bilevel.png": encoded(picture.convert("1")),
        "grey.png": encoded(picture.convert("LA")),
        "grey16.png": grey16([0, 255, 256, 65535]),
        "plain.jpg": encoded(picture, "JPEG"),
        "turned.jpg": encoded(picture, "JPEG", exif=exif),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "still.gif": encoded(picture, "GIF"),
        "lossless.webp": encoded(alpha, "WEBP", lossless=True),
        "lossy.webp": encoded(picture, "WEBP"),
        "plain.bmp": encoded(picture, "BMP"),
        "one.png": encoded(Image.new("RGB", (1, 1), (7, 8, 9))),
    }
