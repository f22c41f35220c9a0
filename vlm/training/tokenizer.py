"""The tokenizer's training task: rendered manuals in, hybrid tokens' losses out.

Pictures come from the flatpack world in the house style and in random ones; a picture depends on its number alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hart.codebook import CodebookTracker
from hart.losses import TokenizerLossWeights, tokenizer_loss
from hart.tokenizer import HybridTokenizer, TokenizerConfig
from vlm.flatpack.build import stages
from vlm.flatpack.product import sample_product
from vlm.flatpack.render import render
from vlm.flatpack.style import HOUSE, random_style
from vlm.training.loop import TrainSettings


@dataclass(frozen=True)
class TokenizerSettings:
    """A tokenizer training run: architecture, loss weights, data, loop. other_styles: share of random styles."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    weights: TokenizerLossWeights = field(default_factory=TokenizerLossWeights)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(minutes=60))
    other_styles: float = 0.3
    workers: int = 1


def picture(number: int, size: int, other_styles: float, seed: int, split: str = "train") -> Image.Image:
    """Training picture `number`: a random step of a random product, in the house style or a random one."""
    rng = random.Random(f"{seed}:{number}:{split}")
    product = sample_product(rng, split)
    step = rng.randrange(len(stages(product)) + 1)
    style = random_style(rng) if rng.random() < other_styles else HOUSE
    return render(product, step, size, style)


def to_tensor(images: list[Image.Image]) -> Tensor:
    """RGB pictures of one size → (B, 3, H, W) float32 in [-1, 1]."""
    pixels = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] → RGB pictures."""
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


class _Pictures(IterableDataset):
    """Batches of uint8 pictures from batch number `start` on."""

    def __init__(self, settings: TokenizerSettings, start: int, batch_size: int, rank: int, world: int) -> None:
        self.settings, self.start, self.batch_size, self.rank, self.world = settings, start, batch_size, rank, world

    def __iter__(self) -> Iterator[Tensor]:
        config = self.settings
        info = torch.utils.data.get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        batch = self.start + first
        while True:
            base = (batch * self.world + self.rank) * self.batch_size
            images = [
                picture(base + i, config.tokenizer.resolution, config.other_styles, config.train.seed)
                for i in range(self.batch_size)
            ]
            yield torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            batch += stride


class TokenizerTask:
    """Trains a `HybridTokenizer`, see `vlm.training.loop.Task`."""

    def __init__(self, settings: TokenizerSettings) -> None:
        torch.manual_seed(settings.train.seed)
        self.settings = settings
        config = settings.tokenizer
        self.module = nn.ModuleDict(
            {
                "tokenizer": HybridTokenizer(config).to(memory_format=torch.channels_last),
                "codebook": CodebookTracker(config.vocab_size, config.channels),
            }
        )

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Any]:
        data = _Pictures(self.settings, start, batch_size, rank, world)
        return iter(DataLoader(data, batch_size=None, num_workers=self.settings.workers, prefetch_factor=4 if self.settings.workers else None))

    def loss(self, module: nn.Module, batch: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, nn.ModuleDict)
        tokenizer, codebook = module["tokenizer"], module["codebook"]
        device = next(tokenizer.parameters()).device
        image = (batch.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return tokenizer_loss(
            tokenizer, image, codebook=codebook, generator=generator, weights=self.settings.weights,
            revive=progress < 0.9,
        )

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Median PSNR on held-out house-style renders, and on styles unlike any trained on; writes samples.png."""
        assert isinstance(module, nn.ModuleDict)
        tokenizer = module["tokenizer"]
        device = next(tokenizer.parameters()).device
        size = self.settings.tokenizer.resolution
        figures: dict[str, float] = {}
        rows: list[list[Image.Image]] = []
        for name, share in (("", 0.0), ("_other_styles", 1.0)):
            images = [picture(i, size, share, 1234, "held_out") for i in range(48)]
            pixels = to_tensor(images).to(device)
            tokens = tokenizer.encode(pixels)
            hybrid = tokenizer.decode(tokens)
            discrete = tokenizer.decode(tokens, residual=False)
            for kind, decoded in (("hybrid", hybrid), ("discrete", discrete)):
                figures[f"psnr_{kind}{name}"] = float(psnr(decoded, pixels).median())
            for one in (images, to_images(discrete), to_images(hybrid)):
                rows.append(one[:12])
        sheet = Image.new("RGB", (12 * size, len(rows) * size))
        for y, row in enumerate(rows):
            for x, image in enumerate(row):
                sheet.paste(image, (x * size, y * size))
        sheet.save(folder / "samples.png")
        return figures


def psnr(decoded: Tensor, pixels: Tensor) -> Tensor:
    """(B,) decibels between pictures in [-1, 1]."""
    return 10 * torch.log10(4 / (decoded - pixels).square().flatten(1).mean(1).clamp_min(1e-10))
