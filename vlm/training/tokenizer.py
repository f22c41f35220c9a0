"""The tokenizer's training task: rendered manuals in, hybrid tokens' losses out.

Pictures come from the flatpack world in the house style and in random ones; a picture depends on its number alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hart.codebook import CodebookTracker
from hart.losses import TokenizerLossWeights, decoder_loss, tokenizer_loss
from hart.tokenizer import HybridTokenizer, TokenizerConfig
from vlm.bundle import load_bundle
from vlm.errors import UserError
from vlm.files import output_file
from vlm.flatpack.build import stages
from vlm.flatpack.product import FAMILIES, sample_product
from vlm.flatpack.render import draw, scene
from vlm.flatpack.shapes import random_scene
from vlm.flatpack.style import HOUSE, random_style
from vlm.pictures import psnr, to_images, to_tensor
from vlm.settings import differences, without_paths
from vlm.training.cache import codes_hash, shapes_hash
from vlm.training.loop import read_runs
from vlm.training.settings import TrainSettings


@dataclass(frozen=True)
class TokenizerSettings:
    """A tokenizer training run: architecture, loss weights, data, loop.

    other_styles: share of random styles; other_shapes: share of things of no family, see `vlm.flatpack.shapes`;
    more_of: a family that a share `more` of the other pictures shows beside its turn, where one is drawn worse than the
    rest. initial: folder of a trained tokenizer, or of a bundle, to start from; "" for random weights. decoder_of: such
    a folder too, but its decoder alone is trained further, so that models over its codes stay valid. Raises ValueError
    where both are set, and on what cannot be.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    weights: TokenizerLossWeights = field(default_factory=TokenizerLossWeights)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(minutes=60))
    other_styles: float = 0.25
    other_shapes: float = 0.0
    more_of: str = ""
    more: float = 0.0
    initial: str = ""
    decoder_of: str = ""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.initial and self.decoder_of:
            raise ValueError("set initial to train a whole tokenizer further or decoder_of for its decoder, not both")
        if self.more_of and self.more_of not in FAMILIES:
            raise ValueError(f"more_of is {self.more_of!r}, expected one of {', '.join(FAMILIES)}")
        for name in ("other_styles", "other_shapes", "more"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, expected 0 to 1, got {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}, expected 0 (none beside the run itself) or more")
        if self.train.batch_size < 2:
            raise ValueError("train.batch_size is 1, expected at least 2: a picture from codes, one with its residual")

    @property
    def start(self) -> Path | None:
        """The folder of the weights that the run starts from."""
        folder = self.initial or self.decoder_of
        return Path(folder) if folder else None


def picture(
    number: int, size: int, other_styles: float, seed: int, split: str = "train", other_shapes: float = 0.0,
    more_of: str = "", more: float = 0.0,
) -> Image.Image:
    """Training picture `number`: a step of a random product, or a thing of no family, in the house style or another."""
    rng = random.Random(f"{seed}:{number}:{split}")
    if other_shapes and rng.random() < other_shapes:
        shown = random_scene(rng)
    else:
        product = sample_product(rng, split, more_of if more_of and rng.random() < more else None)
        shown = scene(product, rng.randrange(len(stages(product)) + 1))
    style = random_style(rng) if rng.random() < other_styles else HOUSE
    return draw(shown, size, style)


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
                picture(
                    base + i, config.tokenizer.resolution, config.other_styles, config.train.seed,
                    other_shapes=config.other_shapes, more_of=config.more_of, more=config.more,
                )
                for i in range(self.batch_size)
            ]
            yield torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            batch += stride


class TrainedTokenizer(nn.Module):
    """A tokenizer and the moving averages of its codebook, which training needs and users do not."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.tokenizer = HybridTokenizer(config)
        self.codebook = CodebookTracker(config.vocab_size, config.channels)


class TokenizerTask:
    """Trains a `HybridTokenizer`, see `vlm.training.loop.Task`."""

    def __init__(self, settings: TokenizerSettings) -> None:
        torch.manual_seed(settings.train.seed)
        self.settings = settings
        if settings.start is None:
            self.module = TrainedTokenizer(settings.tokenizer)
            return
        initial = start_tokenizer(settings.start)
        self.settings = replace(settings, tokenizer=initial.config)
        self.module = TrainedTokenizer(initial.config)
        self.module.tokenizer.load_state_dict(initial.state_dict())
        self.module.codebook.adopt(self.module.tokenizer.quantizer)
        if settings.decoder_of:
            self.module.requires_grad_(False)
            self.module.tokenizer.decoder.requires_grad_(True)

    def settings_record(self) -> dict[str, Any]:
        """See `vlm.training.loop.Task`."""
        return without_paths(differences(self.settings), ("initial", "decoder_of"))

    def depends(self) -> dict[str, str]:
        """See `vlm.training.loop.Task`."""
        sizes = {"sizes": shapes_hash(self.module)}
        return sizes | ({"encoder": codes_hash(self.module.tokenizer)} if self.settings.decoder_of else {})

    def earlier_runs(self) -> list[dict[str, Any]]:
        """What the tokenizer that the run starts from went through."""
        return tokenizer_runs(self.settings.start) if self.settings.start else []

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The wide convolutions: not those that read or write pixels and latents."""
        return [weight for weight in self.module.parameters() if weight.ndim == 4 and min(weight.shape[:2]) >= 64]

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Any]:
        data = _Pictures(self.settings, start, batch_size, rank, world)
        return iter(
            DataLoader(
                data,
                batch_size=None,
                num_workers=self.settings.workers,
                prefetch_factor=4 if self.settings.workers else None,
            )
        )

    def loss(
        self, module: nn.Module, batch: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, TrainedTokenizer)
        tokenizer, codebook = module.tokenizer, module.codebook
        device = next(tokenizer.parameters()).device
        image = (batch.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        if self.settings.decoder_of:
            return decoder_loss(tokenizer, image, generator=generator, weights=self.settings.weights)
        return tokenizer_loss(
            tokenizer,
            image,
            codebook=codebook,
            generator=generator,
            weights=self.settings.weights,
            revive=progress < 0.9,
        )

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Median PSNR on held-out renders: in the house style, in random styles, of no family; writes samples.png."""
        assert isinstance(module, TrainedTokenizer)
        tokenizer = module.tokenizer
        device = next(tokenizer.parameters()).device
        size = self.settings.tokenizer.resolution
        figures: dict[str, float] = {}
        rows: list[list[Image.Image]] = []
        for name, styles, shapes in (("", 0.0, 0.0), ("_other_styles", 1.0, 0.0), ("_other_shapes", 0.0, 1.0)):
            images = [picture(i, size, styles, 1234, "held_out", shapes) for i in range(48)]
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

    @torch.no_grad()
    def export(self, module: nn.Module, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer.safetensors`, the residual's scale measured on training pictures."""
        assert isinstance(module, TrainedTokenizer)
        tokenizer = module.tokenizer
        device = next(tokenizer.parameters()).device
        config = self.settings.tokenizer
        if self.settings.decoder_of:
            save_tokenizer(tokenizer, config, folder)
            return
        sizes = []
        for start in range(0, 256, 32):
            images = [picture(i, config.resolution, 0.0, self.settings.train.seed) for i in range(start, start + 32)]
            sizes.append(tokenizer.encode(to_tensor(images).to(device)).residual.abs().flatten().cpu())
        config = replace(config, residual_scale=round(float(np.quantile(torch.cat(sizes).numpy(), 0.999)), 3))
        save_tokenizer(tokenizer, config, folder)


def save_tokenizer(tokenizer: nn.Module, config: TokenizerConfig, folder: Path) -> None:
    """Write config and float32 weights."""
    (folder / "tokenizer.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous() for name, value in tokenizer.state_dict().items()}
    with output_file(folder / "tokenizer.safetensors") as aside:
        save_file(weights, aside)


def tokenizer_runs(folder: Path) -> list[dict[str, Any]]:
    """What the tokenizer in the folder of one, or of a bundle, went through."""
    runs: Any = read_runs(folder)
    return runs.get("tokenizer", []) if isinstance(runs, dict) else runs


def start_tokenizer(folder: Path) -> HybridTokenizer:
    """The tokenizer of a bundle, or what `save_tokenizer` wrote. Raises `UserError` where there is neither."""
    if (folder / "config.json").exists():
        model, _ = load_bundle(folder)
        return model.image_tokenizer
    try:
        return load_tokenizer(folder)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"no trained image tokenizer in {folder} ({reason}); "
            "run `vlm train tokenizer` first, or name another folder"
        ) from error


def load_tokenizer(folder: Path) -> HybridTokenizer:
    """Read what `save_tokenizer` wrote.

    Raises OSError where a file is missing, ValueError or RuntimeError where it is foreign.
    """
    config = TokenizerConfig.from_dict(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    tokenizer = HybridTokenizer(config)
    tokenizer.load_state_dict(load_file(folder / "tokenizer.safetensors"))
    return tokenizer.eval()
