"""A user's picture is never a clean render: moved, scaled, on other paper, under other light, noisy, compressed.

Knows pixels only; every change is drawn from the given generator.
"""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
from PIL import Image

from vlm.flatpack.product import Product
from vlm.flatpack.render import render
from vlm.flatpack.style import HOUSE, Style

CLEAN = 0.25  # share of uploads that are the render itself


def photograph(product: Product, step: int, size: int, rng: random.Random, style: Style = HOUSE) -> Image.Image:
    """A step's picture as a user might send it, RGB, `size` × `size`: sometimes clean, mostly not."""
    if rng.random() < CLEAN:
        return render(product, step, size, style)
    return disturbed(product, step, size, rng, style)


def disturbed(product: Product, step: int, size: int, rng: random.Random, style: Style = HOUSE) -> Image.Image:
    """A step's picture with every disturbance that chance brings, each in one of two."""
    if rng.random() < 0.5:
        level = rng.randint(205, 255)
        paper = tuple(max(0, min(255, level + rng.randint(-12, 12))) for _ in range(3))
        style = replace(style, background=(paper[0], paper[1], paper[2]))
    image = render(product, step, size, style)
    if rng.random() < 0.5:
        image = _moved(image, rng, style.background)
    pixels = np.asarray(image, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = _lit(pixels, rng)
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(pixels.shape, dtype=np.float32)
        pixels = pixels + rng.uniform(2, 10) * noise
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=rng.randint(50, 92))
        image = Image.open(stream).convert("RGB")
    return image


def _moved(image: Image.Image, rng: random.Random, background: tuple[int, int, int]) -> Image.Image:
    """Scaled to 80–105 % and shifted by up to 6 % of the width."""
    size, factor = image.width, rng.uniform(0.8, 1.05)
    reach = 0.06 * size
    middle = size / 2
    right, down = middle + rng.uniform(-reach, reach), middle + rng.uniform(-reach, reach)
    # PIL wants the map from the new picture to the old one.
    back = (1 / factor, 0, middle - right / factor, 0, 1 / factor, middle - down / factor)
    return image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC, fillcolor=background)


def _lit(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """A gain from one side to the other, a tint, a gamma."""
    height, width = pixels.shape[:2]
    x, y = np.meshgrid(np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32))
    angle = rng.uniform(0, 2 * np.pi)
    gain = rng.uniform(0.85, 1.08) + rng.uniform(0, 0.1) * (np.cos(angle) * x + np.sin(angle) * y)
    tint = np.array([rng.uniform(0.95, 1.05) for _ in range(3)], dtype=np.float32)
    bright = (pixels / 255).clip(0, 1) ** rng.uniform(0.85, 1.2)
    return 255 * bright * gain[..., None].astype(np.float32) * tint
