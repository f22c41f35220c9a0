"""Pictures between PIL and tensors, and how far two are apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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
