"""The training loop: budget, optimizer, averaged weights, checkpoints, resume, curves.

Knows how to train any `Task`; knows nothing of pictures, tokens or losses. Everything random in a step comes from a
generator seeded with (seed, step, process) and every batch from its number, so a run that was killed continues as if
nothing had happened.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vlm.files import output_file

log = logging.getLogger(__name__)

RECORD = "training.json"


@dataclass(frozen=True)
class TrainSettings:
    """How to train. A run ends at `steps` or after `minutes` (0: no such limit), whichever comes first.

    learning_rate falls on a cosine to `final_rate` times itself over the budget, after `warmup` steps. batch_size is
    per process and accumulation step; average: decay of the averaged weights; optimizer: "adamw", or "muon" for the
    task's hidden matrices (`matrix_rate` times the learning rate) beside AdamW for the rest; precision: "no", "bf16",
    or "auto": bf16 on a GPU, float32 on a CPU, where bf16 was measured slower; device: "auto" or "cpu"; intervals are
    in steps, `save_minutes` in minutes.
    """

    steps: int = 0
    minutes: float = 0.0
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 6e-4
    final_rate: float = 0.02
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    average: float = 0.998
    optimizer: str = "adamw"
    matrix_rate: float = 1.0
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    save_minutes: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.steps <= 0 and self.minutes <= 0:
            raise ValueError("a run needs a budget: set train.steps or train.minutes above 0")
        for name in ("minutes", "learning_rate", "matrix_rate", "final_rate", "weight_decay", "clip", "save_minutes"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"train.{name} is a number of at least 0, got {value}")
        for name in ("batch_size", "accumulate", "log_every", "validate_every", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("auto", "no", "bf16"):
            raise ValueError(f'train.precision is "auto", "no" or "bf16", got {self.precision!r}')
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f'train.optimizer is "adamw" or "muon", got {self.optimizer!r}')
        if self.device not in ("auto", "cpu"):
            raise ValueError(f'train.device is "auto" or "cpu", got {self.device!r}')


class Task(Protocol):
    """What the loop trains."""

    @property
    def module(self) -> nn.Module:
        """The weights, and any buffers that training moves."""

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of the module's weights that map hidden rows to hidden rows; (out, in, …), convolutions among them."""

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Any]:
        """Batches from number `start` on; a batch depends on its number (and the process) alone.

        Where they end at the end of a step, the run ends, as it does when its budget is spent.
        """

    def loss(
        self, module: nn.Module, batch: Any, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The scalar loss of one batch on the module's device, and what to report; progress in [0, 1].

        "samples" in the report, if there, says how many the batch holds; other entries are averaged over the steps
        that have them.
        """

    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Figures on held-out data; may write sample pictures into the folder."""

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write the trained weights into the folder, in the form that their users load; `RECORD` is there already."""

    def settings_record(self) -> dict[str, Any]:
        """The settings of the run that are not the defaults, as plain values by dotted name."""


class _Step(nn.Module):
    """Makes the task's loss the forward pass, so that data-parallel wrappers see it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.module = task.module
        self._loss = task.loss

    def forward(self, batch: Any, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        return self._loss(self.module, batch, generator, progress)


def rate_at(settings: TrainSettings, step: int, progress: float) -> float:
    """Learning rate: a linear warm-up, then a cosine over the budget."""
    warm = min(1.0, (step + 1) / settings.warmup)
    low = settings.final_rate
    return settings.learning_rate * warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _optimizers(weights: list[nn.Parameter], task: Task, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for hidden matrices and AdamW for the rest."""
    chosen: list[nn.Parameter] = []
    if settings.optimizer == "muon":
        trained = {id(weight) for weight in weights}
        chosen = [weight for weight in task.hidden_matrices() if id(weight) in trained]
    taken = {id(weight) for weight in chosen}
    rest = [weight for weight in weights if id(weight) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": settings.weight_decay, "factor": 1.0},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "factor": 1.0},
    ]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
    ]
    if chosen:
        made.append(_Muon(chosen, settings))
    return made


class _Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) with the rate of arXiv 2502.16982; filters of a convolution are rows of a matrix."""

    def __init__(self, weights: list[nn.Parameter], settings: TrainSettings) -> None:
        self._weights = weights
        # Views of the same storage: torch.optim.Muon takes nothing but matrices.
        self._views = [nn.Parameter(weight.detach().view(len(weight), -1)) for weight in weights]
        super().__init__(
            [{"params": self._views, "factor": settings.matrix_rate}],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )

    def step(self, closure: Any = None) -> Any:
        """One step, from the gradients of the weights themselves."""
        for view, weight in zip(self._views, self._weights, strict=True):
            view.grad = None if weight.grad is None else weight.grad.reshape(view.shape)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the weights."""
        for weight in self._weights:
            weight.grad = None
        super().zero_grad(set_to_none)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """What training wrote about itself into a folder; nothing where the weights came from elsewhere."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def train(
    task: Task,
    settings: TrainSettings,
    folder: Path,
    resume: bool = True,
    earlier: Sequence[dict[str, Any]] = (),
) -> nn.Module:
    """Train until the budget is spent or the task's batches end; returns the averaged weights' module.

    earlier: what the weights that the task starts from went through, see `read_runs`.

    folder receives `checkpoint.pt`, `curve.jsonl`, sample pictures and, at the end, `RECORD` and the task's export.
    With `resume`, a checkpoint found there is continued (one whose budget is spent is only exported), otherwise one is
    an error. Raises ValueError where a checkpoint is in the way, RuntimeError on a loss or gradient that is not finite.
    """
    on_cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(
        mixed_precision=("no" if on_cpu else "bf16") if settings.precision == "auto" else settings.precision,
        cpu=on_cpu,
        gradient_accumulation_steps=settings.accumulate,
        # A batch without pictures leaves a whole tower without gradients.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    # Codes are nearest neighbours: encoding in TF32, the default of convolutions on a GPU, would change them.
    torch.backends.cudnn.allow_tf32 = False
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists; resume it, or choose another folder")

    step_module = _Step(task)
    # On its device before the optimizers are made: Muon's hold views of the weights.
    step_module = accelerator.prepare(step_module)
    weights = [p for p in step_module.parameters() if p.requires_grad]
    optimizers = [accelerator.prepare(one) for one in _optimizers(weights, task, settings)]
    inner = accelerator.unwrap_model(step_module).module
    averaged = AveragedModel(inner, multi_avg_fn=_average_fn(settings.average), use_buffers=False)

    step, spent = 0, 0.0
    history: list[dict[str, Any]] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        inner.load_state_dict(state["module"])
        averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent, history = state["step"], state["spent"], state.get("history", [])
        log.info("resumed at step %d after %.1f minutes", step, spent / 60)

    begun = (step, spent)
    phase = {"settings": task.settings_record(), "hardware": _hardware(accelerator), "torch": str(torch.__version__)}
    if history and all(history[-1][key] == value for key, value in phase.items()):
        last = history.pop()
        begun = (step - last["steps"], spent - 60 * last["minutes"])

    def record() -> list[dict[str, Any]]:
        """What the weights went through: one entry for each run of other settings, the last one up to now."""
        now = {"steps": step - begun[0], "minutes": round((spent - begun[1]) / 60, 2), "date": f"{date.today()}"}
        return [*history, phase | now] if now["steps"] else list(history)

    def save() -> None:
        if accelerator.is_main_process:
            write_checkpoint(
                checkpoint,
                {
                    "module": inner.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step,
                    "spent": spent,
                    "history": record(),
                },
            )

    def progress_now() -> float:
        by_steps = step / settings.steps if settings.steps > 0 else 0.0
        by_time = spent / 60 / settings.minutes if settings.minutes > 0 else 0.0
        return max(by_steps, by_time)

    recent: deque[dict[str, float]] = deque(maxlen=settings.log_every)
    micro = step * settings.accumulate
    batches = task.batches(micro, settings.batch_size, accelerator.process_index, accelerator.num_processes)
    last_save = mark = time.monotonic()
    mark_step = step
    step_module.train()
    while progress_now() < 1.0:
        started = time.monotonic()
        rate = rate_at(settings, step, progress_now())
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
        parts = list(islice(batches, settings.accumulate))
        if len(parts) < settings.accumulate:
            break
        for part, batch in enumerate(parts):
            generator = torch.Generator().manual_seed(
                hash((settings.seed, step, part, accelerator.process_index)) & 0x7FFFFFFFFFFF
            )
            with accelerator.accumulate(step_module), accelerator.autocast():
                loss, metrics = step_module(batch, generator, progress_now())
                _check_finite("loss", float(loss.detach()), step, checkpoint)
                accelerator.backward(loss)
                if accelerator.sync_gradients and settings.clip > 0:
                    metrics["grad_norm"] = float(accelerator.clip_grad_norm_(weights, settings.clip))
                    _check_finite("gradient", metrics["grad_norm"], step, checkpoint)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        recent.append(metrics)
        step += 1
        averaged.update_parameters(inner)
        spent += time.monotonic() - started
        if step % settings.log_every == 0:
            now = time.monotonic()
            names = sorted({name for metrics in recent for name in metrics})
            row = {name: statistics.fmean(m[name] for m in recent if name in m) for name in names}
            each = row.pop("samples", settings.batch_size)
            seen = (step - mark_step) * each * settings.accumulate * accelerator.num_processes
            row |= {"samples_per_s": seen / (now - mark), "lr": rate}
            mark, mark_step = now, step
            _report(folder, "train", step, spent, row, accelerator)
        if step % settings.validate_every == 0 or progress_now() >= 1.0:
            if progress_now() >= 1.0:
                save()  # what was learnt, before anything that may fail
            if accelerator.is_main_process:
                module = _averaged_copy(averaged, inner)
                _report(folder, "validation", step, spent, task.validate(module, folder, step), accelerator)
            step_module.train()
            mark, mark_step = time.monotonic(), step
        if time.monotonic() - last_save > settings.save_minutes * 60:
            save()
            last_save = time.monotonic()
    save()
    final = _averaged_copy(averaged, inner)
    if accelerator.is_main_process:
        (folder / RECORD).write_text(json.dumps([*earlier, *record()], indent=2) + "\n", encoding="utf-8")
        task.export(final, folder)
    accelerator.wait_for_everyone()
    return final


def _check_finite(what: str, value: float, step: int, checkpoint: Path) -> None:
    if not math.isfinite(value):
        raise RuntimeError(f"the {what} is not finite at step {step}; the last checkpoint is kept in {checkpoint}")


def _hardware(accelerator: Accelerator) -> str:
    """What the run computes on, in words that name no machine."""
    if accelerator.device.type == "cuda":
        kind = torch.cuda.get_device_name(accelerator.device)
    else:
        kind = f"{accelerator.device.type.upper()}, {torch.get_num_threads()} threads"
    several = accelerator.num_processes
    return f"{several} x {kind}" if several > 1 else kind


def _average_fn(decay: float) -> Any:
    """Exponential average that forgets the random start: the decay rises with the number of updates."""

    def update(averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return torch.no_grad()(update)


def _averaged_copy(averaged: AveragedModel, inner: nn.Module) -> nn.Module:
    """The averaged parameters with the live buffers, ready for evaluation."""
    module = averaged.module
    for mine, live in zip(module.buffers(), inner.buffers(), strict=True):
        mine.copy_(live)
    return module.eval()


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write aside, then rename: a kill leaves the old checkpoint or the new one, never half of one."""
    with output_file(path) as aside:
        torch.save(state, aside)


def _report(folder: Path, kind: str, step: int, spent: float, row: dict[str, float], accelerator: Accelerator) -> None:
    if not accelerator.is_main_process:
        return
    rounded = {key: float(f"{value:.5g}") for key, value in row.items()}
    with open(folder / "curve.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, "step": step, "minutes": round(spent / 60, 2), **rounded}) + "\n")
    log.info("%s %d · %.1f min · %s", kind, step, spent / 60, "  ".join(f"{k} {v:.4g}" for k, v in rounded.items()))
