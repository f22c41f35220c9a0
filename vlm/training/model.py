"""The model's training task: conversations in, the losses of text, codes and residual out.

The image tokenizer is frozen; pictures are encoded as they come. Knows the stream; knows nothing of optimizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from hart.tokenizer import HybridTokenizer
from vlm.batch import StreamBatch
from vlm.bundle import RECORD_FILE, load_bundle, save_bundle
from vlm.config import HartVLMConfig
from vlm.errors import UserError
from vlm.evaluation import compare_guides
from vlm.flatpack.style import HOUSE
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.settings import differences, without_paths
from vlm.stream import RESIDUAL_DTYPE
from vlm.text_tokenizer import train_text_tokenizer
from vlm.training.batches import WIDER, Batch, Batches, MixSettings, filled, unencoded
from vlm.training.cache import ConversationCache, codes_hash, digest, shapes_hash
from vlm.training.conversations import KINDS, conversation_sample, world_text
from vlm.training.loop import read_runs
from vlm.training.settings import TrainSettings
from vlm.training.tokenizer import start_tokenizer, tokenizer_runs


@dataclass(frozen=True)
class TowerSettings:
    """One decoder stack; both towers have these sizes."""

    kind: str = "llama"
    width: int = 256
    hidden: int = 704
    layers: int = 6
    heads: int = 8
    context: int = 4096

    def config(self) -> dict[str, Any]:
        """As `transformers` wants it."""
        return {
            "model_type": self.kind,
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.width // self.heads,
            "max_position_embeddings": self.context,
            "bos_token_id": None,
            "eos_token_id": None,
        }


@dataclass(frozen=True)
class ModelSettings:
    """A model training run.

    tokenizer: folder of a trained image tokenizer, or of a bundle, "" for that of `initial` or runs/tokenizer; initial:
    folder of a bundle to start from, whose sizes and text vocabulary are kept (the optimizer starts fresh), "" for
    random weights; vocabulary: size of the text vocabulary; mix: what is learnt from; cache: folder to keep encoded
    conversations in for later runs, "" for none; draft_spans: pictures per conversation whose drawing is learnt (the
    others are only seen); checkpointing: see `HartVLM`; residual_*: the residual head; *_weight: of the losses;
    coarse_emphasis, code_softness (see `HartVLMConfig`); guidance: the default that the bundle is saved with.
    Raises ValueError on what cannot be.
    """

    tokenizer: str = ""
    initial: str = ""
    vocabulary: int = 1024
    tower: TowerSettings = field(default_factory=TowerSettings)
    residual_width: int = 256
    residual_depth: int = 3
    text_weight: float = 1.0
    code_weight: float = 1.0
    residual_weight: float = 1.0
    coarse_emphasis: float = 0.5
    code_softness: float = 0.0
    guidance: float = 0.0
    draft_spans: int = 3
    checkpointing: bool = False
    mix: MixSettings = field(default_factory=MixSettings)
    cache: str = ""
    workers: int = 1
    train: TrainSettings = field(default_factory=lambda: TrainSettings(minutes=60, batch_size=8, learning_rate=1e-3))

    def __post_init__(self) -> None:
        counts = ("draft_spans", "workers")
        for name in ("text_weight", "code_weight", "residual_weight", "code_softness", "guidance", *counts):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.coarse_emphasis <= 1:
            raise ValueError(f"coarse_emphasis is {self.coarse_emphasis}, expected 0 to 1")

    @property
    def pictures_by(self) -> Path:
        """The folder of the image tokenizer that the run is over."""
        return Path(self.tokenizer or self.initial or "runs/tokenizer")


class ModelTask:
    """Trains a `HartVLM` on conversations, see `vlm.training.loop.Task`."""

    def __init__(self, settings: ModelSettings) -> None:
        torch.manual_seed(settings.train.seed)
        self.settings = settings
        image_tokenizer = start_tokenizer(settings.pictures_by)
        self.module, self.processor = self._start(image_tokenizer)
        self.module.image_tokenizer.load_state_dict(image_tokenizer.state_dict())
        self.module.checkpointing = settings.checkpointing
        self._cache = self._open_cache(image_tokenizer) if settings.cache else None

    def _open_cache(self, image_tokenizer: HybridTokenizer) -> ConversationCache:
        vocabulary = sorted(self.processor.tokenizer.get_vocab().items())
        codes = codes_hash(image_tokenizer)
        depends = {"codes": codes, "vocabulary": vocabulary, "seed": self.settings.train.seed, "version": 2}
        return ConversationCache(Path(self.settings.cache), depends)

    def _start(self, image_tokenizer: HybridTokenizer) -> tuple[HartVLM, StreamProcessor]:
        """The untrained model, or the initial bundle's, with the settings of this run."""
        settings = self.settings
        losses: dict[str, Any] = {
            "text_weight": settings.text_weight,
            "code_weight": settings.code_weight,
            "residual_weight": settings.residual_weight,
            "coarse_emphasis": settings.coarse_emphasis,
            "code_softness": settings.code_softness,
            "guidance": settings.guidance,
        }
        pictures = image_tokenizer.config.to_dict()
        if settings.initial:
            model, processor = load_bundle(settings.initial)
            theirs = model.config.tokenizer_config.to_dict()
            wrong = [key for key, value in pictures.items() if key != "residual_scale" and value != theirs[key]]
            if wrong:
                raise UserError(
                    f"the tokenizers of {settings.initial} and {settings.pictures_by} differ in {', '.join(wrong)}; "
                    "set initial to a bundle over a tokenizer of these sizes"
                )
            for key, value in {**losses, "image_tokenizer": pictures}.items():
                setattr(model.config, key, value)
            return model, processor
        text_tokenizer = _text_tokenizer(settings.vocabulary)
        tower = settings.tower.config()
        config = HartVLMConfig(
            text_config=tower | {"vocab_size": len(text_tokenizer), "tie_word_embeddings": True},
            image_config=dict(tower),
            image_tokenizer=pictures,
            residual_width=settings.residual_width,
            residual_depth=settings.residual_depth,
            **losses,
        )
        return HartVLM(config), StreamProcessor(text_tokenizer, config, background=HOUSE.background)

    def settings_record(self) -> dict[str, Any]:
        """See `vlm.training.loop.Task`."""
        return without_paths(differences(self.settings), ("tokenizer", "initial", "cache"))

    def depends(self) -> dict[str, str]:
        """See `vlm.training.loop.Task`."""
        return {
            "image tokenizer": codes_hash(self.module.image_tokenizer),
            "text vocabulary": digest(sorted(self.processor.tokenizer.get_vocab().items())),
            "sizes": shapes_hash(self.module),
        }

    def earlier_runs(self) -> list[dict[str, Any]]:
        """What the initial bundle's towers went through."""
        path = Path(self.settings.initial) / RECORD_FILE
        if not self.settings.initial or not path.exists():
            return []
        return json.loads(path.read_text(encoding="utf-8")).get("model", [])

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights between hidden rows, which the "muon" optimizer takes: the towers' layers."""
        stacks = (self.module.text.model.layers, self.module.image.layers)
        return [weight for stack in stacks for weight in stack.parameters() if weight.ndim == 2]

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Any]:
        workers = self.settings.workers
        data = Batches(
            self.settings.mix, self.settings.train.seed, self.settings.draft_spans,
            self.processor, self._cache, start, batch_size, rank, world,
        )  # fmt: skip
        loader = DataLoader(
            data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None, collate_fn=lambda x: x
        )
        return iter(loader)

    def loss(
        self, module: nn.Module, batch: Batch, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, HartVLM)
        losses = module(self._encoded(module, batch), generator)
        metrics = losses.metrics()
        named = {f"{name}_{batch.kind}": value for name, value in metrics.items() if name != "total"}
        if batch.kind == "words":
            named = {name: value for name, value in named.items() if name.startswith("text")}
        return losses.total, {"total": metrics["total"], "samples": batch.rows.size, **named}

    def _encoded(self, module: HartVLM, batch: Batch) -> StreamBatch:
        """The batch's rows on the model's device, with the codes and residuals of its pictures."""
        rows = batch.rows.to(module.device)
        if batch.pixels is None:
            return rows
        if len(batch.pixels):
            pixels = batch.pixels.to(module.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            # Codes must not depend on the training precision.
            with torch.autocast(module.device.type, enabled=False):
                tokens = module.image_tokenizer.encode(pixels)
            rows = replace(rows, codes=tokens.flat_codes(), residuals=tokens.residual.to(RESIDUAL_DTYPE))
        if self._cache and batch.streams:
            self._cache.save(batch.name, filled(batch.streams, rows, module.config.text_vocab_size))
        return rows

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Losses on held-out conversations, teacher-forced; writes guides.png, drawn beside true."""
        assert isinstance(module, HartVLM)
        sheet, figures = compare_guides(module, self.processor, count=4, seed=77)
        sheet.save(folder / "guides.png")
        return self.held_out_losses(module, rounds=2) | figures

    @torch.no_grad()
    def held_out_losses(self, module: nn.Module, rounds: int) -> dict[str, float]:
        """Mean losses and accuracies by kind over `rounds` batches of each, teacher-forced."""
        assert isinstance(module, HartVLM)
        sums: dict[str, float] = {}
        for kind in KINDS:
            count = 6 * WIDER[kind]
            for number in range(rounds):
                samples = [
                    conversation_sample(number * count + i, self.processor.resolution, 1234, "held_out", kind)
                    for i in range(count)
                ]
                generator = torch.Generator().manual_seed(number)
                spans = self.settings.draft_spans
                batch = unencoded(kind, "", samples, self.processor, generator, spans)
                _, metrics = self.loss(module, replace(batch, streams=()), generator, 0.0)
                for key, value in metrics.items():
                    if key not in ("total", "samples"):
                        sums[key] = sums.get(key, 0.0) + value / rounds
        return sums

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write a bundle into folder/bundle, with the decoder that the tokenizer's folder holds now.

        Raises UserError where that tokenizer's codes are not those that the model was trained on.
        """
        assert isinstance(module, HartVLM)
        current = start_tokenizer(self.settings.pictures_by)
        mine = module.image_tokenizer.state_dict()
        for name, value in current.state_dict().items():
            if not name.startswith("decoder.") and not torch.equal(value, mine[name].cpu()):
                raise UserError(
                    f"{self.settings.pictures_by} has another {name} than the tokenizer that this model was trained "
                    "on; set tokenizer=FOLDER to that one"
                )
        module.image_tokenizer.load_state_dict(current.state_dict())
        record = {"tokenizer": tokenizer_runs(self.settings.pictures_by), "model": read_runs(folder)}
        save_bundle(module, self.processor, folder / "bundle", record)


@lru_cache(maxsize=1)
def _text_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A vocabulary of the world's own text."""
    return train_text_tokenizer(world_text(4000), size)
