"""Training an adapter: a `Task` for `vlm.training.loop`, early stop on a held-out split, and the folder at the end.

Knows streams and LoRA weights. Does not know files of data, nor the command line. What the loop trains, averages and
keeps in checkpoints is the adapter alone; the base stands beside it, frozen.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adapters.disk import writing
from adapters.folder import MANIFEST_FILE, Manifest, StoredAdapter, World, save_adapter, settings_record
from adapters.held_out import held_out_losses, held_out_pictures, held_out_samples
from adapters.lora import LoraSettings, drawing_from, put_in, state_of, weights_of
from adapters.material import Batch, Material, batch_of
from adapters.pictures import spread
from adapters.targets import target_names
from hart.losses import decoder_loss
from vlm.batch import collate
from vlm.errors import UserError
from vlm.files import check_output_folder, output_file
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.settings import differences
from vlm.training.loop import RECORD, train
from vlm.training.settings import TrainSettings

log = logging.getLogger(__name__)

HISTORY_FILE, SETTINGS_FILE = "held_out.json", "adapting.json"
VALIDATED_AT_MOST = 12


@dataclass(frozen=True)
class AdaptSettings:
    """How to train an adapter.

    lora: what is trained; rehearse: share of what is learnt that comes from `Material.rehearsal`; patience: a run stops
    after so many validations without a better held-out loss (0: never); draft_spans: pictures per conversation and step
    whose drawing is learnt; coarse_emphasis: takes the place of the base's own (see `HartVLMConfig`) while an adapter
    learns, since the first codes of a picture decide whether it is in the style that the prompt asks for; pictures: per
    batch, that the image tokenizer's decoder learns to draw, where it is among the places; checkpointing: see
    `HartVLM`.
    """

    lora: LoraSettings = field(default_factory=LoraSettings)
    rehearse: float = 0.5
    patience: int = 5
    draft_spans: int = 3
    coarse_emphasis: float = 0.8
    pictures: int = 2
    checkpointing: bool = False
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            minutes=15, batch_size=2, learning_rate=4e-3, warmup=20, weight_decay=0.0, average=0.98,
            validate_every=100, save_minutes=1.0, betas=(0.9, 0.99),
        )  # fmt: skip
    )

    def __post_init__(self) -> None:
        if not 0 <= self.rehearse < 1:
            raise UserError(f"rehearse is {self.rehearse}, expected a share of at least 0 and below 1")
        if self.patience < 0 or self.draft_spans < 0:
            raise UserError("patience and draft_spans are counts, expected at least 0")
        if not 0 <= self.coarse_emphasis <= 1:
            raise UserError(f"coarse_emphasis is {self.coarse_emphasis}, expected 0 to 1")
        if self.pictures < 2:
            raise UserError(f"pictures is {self.pictures}, expected at least 2: one from codes, one with its residual")


@dataclass(frozen=True)
class About:
    """What the adapter's folder is to say beside its weights. held_out: names of the examples that were held out."""

    base: str
    command: str = ""
    world: World = field(default_factory=World)
    data: dict[str, int] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()


class AdapterWeights(nn.Module):
    """The trainable weights of an adapter and nothing else; the very parameters that stand in the model."""

    def __init__(self, model: HartVLM) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights_of(model).values())


class AdaptTask:
    """Trains LoRA weights in `model`, see `vlm.training.loop.Task`. The model is changed: nothing else may use it."""

    def __init__(
        self,
        model: HartVLM,
        processor: StreamProcessor,
        material: Material,
        settings: AdaptSettings,
        out: Path,
        about: About,
        force: bool = False,
    ) -> None:
        if settings.lora.places == ("decoder",) and not material.pictures:
            raise UserError("no answer shows a picture, so the decoder has nothing to learn; train text instead")
        self.settings, self.processor, self.material = settings, processor, material
        self.out, self.about, self.force = out, about, force
        self.targets = target_names(model, settings.lora.places)
        put_in(model, settings.lora, seed=settings.train.seed)
        self.model = model
        model.checkpointing = settings.checkpointing
        self.module = AdapterWeights(model)
        self._stop = False

    def settings_record(self) -> dict[str, Any]:
        """See `vlm.training.loop.Task`."""
        return differences(self.settings)

    def depends(self) -> dict[str, str]:
        """Nothing that `_check_same` does not look at before."""
        return {}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """None: the two factors of an update are no maps between hidden rows."""
        return []

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Batch]:
        """See `adapters.material.batch_of`; ends where the held-out loss has stopped falling."""
        pictures = self.settings.pictures if "decoder" in self.settings.lora.places else 0
        rehearse, seed = self.settings.rehearse, self.settings.train.seed
        interval = self.settings.train.validate_every * self.settings.train.accumulate
        number = start
        before = start // self.settings.train.accumulate
        self._stop = self._had_enough([one for one in _history(run_folder(self.out)) if one["step"] <= before])
        while True:
            if number % interval == 0 and self._agreed_to_stop():
                if processes(self.settings).is_main_process:
                    log.info("stopped: no better on the held-out examples for %d validations", self.settings.patience)
                return
            yield batch_of(self.material, number * world + rank, batch_size, pictures, rehearse, seed)
            number += 1

    def loss(
        self, module: nn.Module, batch: Batch, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """See `vlm.training.loop.Task`; `module` holds the weights that stand in the model."""
        device = self.module.weights[0].device
        if self.model.device != device:
            self.model.to(device)
        if not self.model.training:
            self.model.train()
        metrics: dict[str, float] = {"samples": len(batch.conversations)}
        parts = []
        # Alone, the decoder learns nothing from the stream.
        if self.settings.lora.places != ("decoder",):
            spans = self.settings.draft_spans
            rows = collate(batch.conversations, self.model.config, generator=generator, max_draft_spans=spans)
            with self._emphasis(), drawing_from(generator, device) if self.settings.lora.dropout else nullcontext():
                losses = self.model(rows.to(device), generator)
            parts.append(losses.total)
            metrics |= losses.metrics()
        if batch.pictures is not None:
            decoded, told = decoder_loss(self.model.image_tokenizer, batch.pictures.to(device), generator=generator)
            parts.append(decoded)
            metrics["decoder"] = told["loss"]
        total = torch.stack(parts).sum()
        metrics["total"] = float(total.detach())
        return total, metrics

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Losses on the held-out examples; keeps the weights where they are the best so far and writes samples.png,
        drawn above true."""
        assert isinstance(module, AdapterWeights)
        with self._holding(module):
            figures = held_out_losses(self.model, self.material.held_out[:VALIDATED_AT_MOST])
            if "decoder" in self.settings.lora.places:
                figures |= held_out_pictures(self.model, spread(self.material.held_out_pictures, VALIDATED_AT_MOST))
                figures["total"] += figures.get("decoder", 0.0)
            with output_file(folder / "samples.png") as aside:
                held_out_samples(self.model, self.processor, self.material.held_out).save(aside, format="PNG")
            history = [one for one in _history(folder) if one["step"] < step]
            if math.isfinite(figures["total"]) and all(
                figures["total"] < _or_infinite(one["total"]) for one in history
            ):
                with output_file(best_file(folder, step)) as aside:
                    save_file(state_of(self.model), aside)
            history.append({"step": step, **figures})
        with output_file(folder / HISTORY_FILE) as aside:
            aside.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        self._stop = self._had_enough(history)
        return figures

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write the adapter, with the weights that were best on the held-out examples."""
        history = _history(folder)
        chosen = min(history, key=lambda one: _or_infinite(one["total"]), default={"step": 0})
        best = best_file(folder, int(chosen["step"]))
        if not best.is_file():
            raise UserError(
                f"the run in {folder} came to no validation with a finite loss, so there is no adapter; train longer, "
                "or with a lower --learning-rate"
            )
        record = folder / RECORD
        told = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
        about = self.about
        manifest = Manifest(
            base=about.base,
            places=self.settings.lora.places,
            world=about.world,
            data=about.data,
            held_out=about.held_out,
            settings=settings_record(self.settings.lora) | self.settings_record(),
            command=about.command,
            figures={f"held_out.{name}": value for name, value in chosen.items() if name != "step"}
            | {"steps": chosen["step"]},
            record=told,
        )
        adapter = StoredAdapter(self.settings.lora, load_file(best), manifest)
        save_adapter(adapter, self.out, self.targets, self.force)

    def _had_enough(self, history: list[dict[str, float]]) -> bool:
        """Whether the last validations, as many as the patience, brought nothing better."""
        if not history or not self.settings.patience:
            return False
        best = min(range(len(history)), key=lambda index: _or_infinite(history[index]["total"]))
        return len(history) - 1 - best >= self.settings.patience

    def _agreed_to_stop(self) -> bool:
        """Only the main process validates; all of them must stop at the same batch."""
        if processes(self.settings).num_processes == 1:
            return self._stop
        told = [self._stop]
        broadcast_object_list(told)
        return told[0]

    @contextmanager
    def _emphasis(self) -> Iterator[None]:
        """The code loss weighed for an adapter; what is validated is weighed as the base weighs it."""
        config = self.model.config
        own, config.coarse_emphasis = config.coarse_emphasis, self.settings.coarse_emphasis
        try:
            yield
        finally:
            config.coarse_emphasis = own

    @contextmanager
    def _holding(self, module: AdapterWeights) -> Iterator[None]:
        """The model in evaluation mode with the weights of `module` (the averaged ones), and back."""
        live = [value.detach().clone() for value in self.module.weights]
        try:
            for mine, other in zip(self.module.weights, module.weights, strict=True):
                mine.copy_(other)
            self.model.eval()
            yield
        finally:
            for mine, value in zip(self.module.weights, live, strict=True):
                mine.copy_(value)


def train_adapter(
    model: HartVLM,
    processor: StreamProcessor,
    material: Material,
    settings: AdaptSettings,
    out: Path,
    about: About,
    *,
    resume: bool = True,
    force: bool = False,
) -> Path:
    """Train an adapter of `model` (which is changed) and write it to the folder `out`; returns `out`.

    Checkpoints and curves are kept beside it, in `run_folder(out)`. A run found there is continued with `resume`, and
    its earlier adapter replaced; data and adapter must be the same. Raises `UserError` where something is in the way,
    where the run found is another, and where the loss is no longer a number: the last good state is kept.
    """
    folder = run_folder(out)
    force = check_way(out, resume=resume, force=force)
    advice = "the last good state is kept; make room, and the same command goes on"
    try:
        with writing(folder, advice):
            _check_same(folder, settings, material, about, processes(settings))
            train(AdaptTask(model, processor, material, settings, out, about, force), settings.train, folder, resume)
    except RuntimeError as error:
        if "not finite" in str(error):
            checkpoint = folder / "checkpoint.pt"
            kept = f"its last good state is kept in {checkpoint}" if checkpoint.is_file() else "nothing was kept yet"
            raise UserError(
                f"{str(error).partition(';')[0]}, so training stopped; {kept}; try a lower --learning-rate, "
                "or another --out to begin again"
            ) from error
        raise
    return out


def check_way(out: Path, *, resume: bool = True, force: bool = False) -> bool:
    """Whether an adapter found at `out` is to be replaced. Raises `UserError` where something else is in the way."""
    checkpoint = run_folder(out) / "checkpoint.pt"
    if checkpoint.is_file() and not resume:
        raise UserError(f"{checkpoint.parent} holds a run; resume it, take another --out, or remove that folder")
    force = force or checkpoint.is_file()
    check_output_folder(out, marker=MANIFEST_FILE, force=force)
    return force


def run_folder(out: Path) -> Path:
    """Where checkpoints, curves, samples and encoded data of the run that makes `out` are kept."""
    out = Path(os.path.abspath(out))
    return out.with_name(out.name + ".training")


def best_file(folder: Path, step: int) -> Path:
    """The weights that were the best on the held-out examples up to `step`, among a run's files.

    One file for each such step: after a kill a run goes on from an earlier one, whose best must still be there.
    """
    return folder / f"best-{step:06d}.safetensors"


def processes(settings: AdaptSettings) -> PartialState:
    """The processes of this run, on the kind of device that the loop will choose."""
    return PartialState(cpu=settings.train.device == "cpu" or not torch.accelerator.is_available())


def _check_same(folder: Path, settings: AdaptSettings, material: Material, about: About, state: PartialState) -> None:
    """Raise `UserError` where `folder` holds a run of another adapter, base or data; else note what this one is."""
    mine = {
        "base": about.base,
        "lora": settings_record(settings.lora),
        "train": sorted(one.fingerprint()[:16] for one in material.train),
        "held_out": sorted(one.fingerprint()[:16] for one in material.held_out),
    }
    path = folder / SETTINGS_FILE
    if path.is_file() and (folder / "checkpoint.pt").is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name, value in mine.items() if theirs.get(name) != value]
        if changed:
            raise UserError(
                f"{folder} holds a run with another {' and '.join(changed)}; take another --out, or remove that folder"
            )
    elif state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        # What an older run left there without a checkpoint is no part of this one.
        for old in (folder / HISTORY_FILE, folder / RECORD, folder / "curve.jsonl", *folder.glob("best-*.safetensors")):
            old.unlink(missing_ok=True)
        path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


def _history(folder: Path) -> list[dict[str, float]]:
    path = folder / HISTORY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
