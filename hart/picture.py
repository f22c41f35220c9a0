"""What a drawing gives: events while it runs, a picture that knows where it comes from, its PNG file.

Knows no model. The metadata are ``iTXt`` chunks (UTF-8) without a clock, so the same picture and origin give the
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin
from torch import Tensor

from hart.tokens import HybridTokens


@dataclass(frozen=True)
class Picture:
    """A finished picture. tokens: a batch of one, from which the tokenizer decodes this very picture; None when
    the drawing was stopped before its last scale. settings: everything else that fixed it, for the metadata.
    """

    image: Image.Image
    prompt: str
    seed: int
    tokens: HybridTokens | None
    settings: Mapping[str, str]

    def save(self, path: Path | str) -> None:
        """Write a PNG with prompt, seed and settings in its metadata."""
        info = PngImagePlugin.PngInfo()
        info.add_itxt("Software", "hart-vlm")
        for key, value in {"prompt": self.prompt, "seed": str(self.seed), **self.settings}.items():
            info.add_itxt(key, value)
        self.image.save(path, format="PNG", pnginfo=info)


@dataclass(frozen=True)
class ImageStarted:
    """Picture `index` (from 0, of this batch) begins; it will report `scales` scales."""

    index: int
    scales: int


@dataclass(frozen=True)
class ImagePreview:
    """Scale `scale` (from 0) of `scales` is drawn. `image` is its coarse picture, None without previews."""

    index: int
    scale: int
    scales: int
    image: Image.Image | None


@dataclass(frozen=True)
class ImageDone:
    """Picture `index` is finished."""

    index: int
    picture: Picture


Event = ImageStarted | ImagePreview | ImageDone


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] → an RGB picture."""
    values = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
