"""The training loop: budget, optimizer, averaged weights, checkpoints, resume, curves.

Knows how to train any `Task`; knows nothing of pictures, tokens or losses. Everything random in a step comes from a
generator seeded with (seed, step, process) and every batch from its number, so a run that was killed continues as if
nothing had happened.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vlm.errors import UserError
from vlm.files import output_file
from vlm.training.curve import Curve
from vlm.training.optimizers import optimizers_for, rate_at
from vlm.training.settings import TrainSettings

log = logging.getLogger(__name__)

RECORD = "training.json"


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

    def depends(self) -> dict[str, str]:
        """What a checkpoint of this task cannot be continued without, each by name: the same text where it is the
        same."""


class _Step(nn.Module):
    """Makes the task's loss the forward pass, so that data-parallel wrappers see it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.module = task.module
        self._loss = task.loss

    def forward(self, batch: Any, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        return self._loss(self.module, batch, generator, progress)


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
    an error. Raises ValueError where a checkpoint is in the way, `UserError` where it is of something else (see
    `Task.depends`), RuntimeError on a loss or gradient that is not finite.
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
    optimizers = [accelerator.prepare(one) for one in optimizers_for(weights, task.hidden_matrices(), settings)]
    inner = accelerator.unwrap_model(step_module).module
    averaged = AveragedModel(inner, multi_avg_fn=_average_fn(settings.average), use_buffers=False)

    step, spent = 0, 0.0
    history: list[dict[str, Any]] = []
    curve = Curve(folder, settings.batch_size, accelerator.num_processes, accelerator.is_main_process)
    depends = task.depends() | {"optimizer": settings.optimizer}
    state: dict[str, Any] = {}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        _check_same(state.get("depends", {}), depends, checkpoint)
        inner.load_state_dict(state["module"])
        averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent, history = state["step"], state["spent"], state.get("history", [])
        # As the weights are: of the run that the checkpoint is of.
        earlier = state.get("earlier", earlier)
        log.info("resumed at step %d after %.1f minutes", step, spent / 60)
    curve.go_on(state.get("curve", {}), step)
    state = {}

    begun = (step, spent)
    phase = {"settings": task.settings_record(), "hardware": _hardware(accelerator), "torch": str(torch.__version__)}
    if history and all(history[-1][key] == value for key, value in phase.items()):
        last = history.pop()
        begun = (step - last["steps"], spent - 60 * last["minutes"])

    def record() -> list[dict[str, Any]]:
        """What the weights went through: one entry for each run of other settings, the last one up to now."""
        now = {"steps": step - begun[0], "minutes": round((spent - begun[1]) / 60, 2), "date": f"{date.today()}"}
        return [*history, phase | now] if now["steps"] else list(history)

    saved_step, last_save = step if checkpoint.exists() else -1, time.monotonic()

    def save() -> None:
        nonlocal saved_step, last_save
        if accelerator.is_main_process and step != saved_step:
            write_checkpoint(
                checkpoint,
                {
                    "module": inner.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step,
                    "spent": spent,
                    "history": record(),
                    "earlier": list(earlier),
                    "curve": curve.state_dict(),
                    "depends": depends,
                },
            )
        saved_step, last_save = step, time.monotonic()

    def progress_now() -> float:
        by_steps = step / settings.steps if settings.steps > 0 else 0.0
        by_time = spent / 60 / settings.minutes if settings.minutes > 0 else 0.0
        return max(by_steps, by_time)

    micro = step * settings.accumulate
    batches = task.batches(micro, settings.batch_size, accelerator.process_index, accelerator.num_processes)
    step_module.train()
    while True:
        # Of one clock: processes that end at different steps, or train at different rates, wait or drift for ever.
        spent = _of_the_main_process(spent, accelerator)
        if (progress := progress_now()) >= 1.0:
            break
        started = time.monotonic()
        rate = rate_at(settings, step, progress)
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
                loss, metrics = step_module(batch, generator, progress)
                _check_finite("loss", float(loss.detach()), step, checkpoint)
                accelerator.backward(loss)
                if accelerator.sync_gradients and settings.clip > 0:
                    metrics["grad_norm"] = float(accelerator.clip_grad_norm_(weights, settings.clip))
                    _check_finite("gradient", metrics["grad_norm"], step, checkpoint)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            curve.add(metrics)
        step += 1
        averaged.update_parameters(inner)
        spent += time.monotonic() - started
        if step % settings.log_every == 0:
            curve.trained(step, spent, rate)
        if step % settings.validate_every == 0 or progress_now() >= 1.0:
            if progress_now() >= 1.0:
                save()  # what was learnt, before anything that may fail
            if accelerator.is_main_process:
                curve.validated(step, spent, task.validate(_averaged_copy(averaged, inner), folder, step))
            step_module.train()
            curve.restart_clock()
        if time.monotonic() - last_save > settings.save_minutes * 60:
            save()
    save()
    final = _averaged_copy(averaged, inner)
    if accelerator.is_main_process:
        (folder / RECORD).write_text(json.dumps([*earlier, *record()], indent=2) + "\n", encoding="utf-8")
        task.export(final, folder)
    accelerator.wait_for_everyone()
    return final


def leave_processes() -> None:
    """Part from the other processes of a run, at the end of the program: an exit while their threads still run is a
    crash, now and then."""
    state = PartialState()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()


def _of_the_main_process(value: float, accelerator: Accelerator) -> float:
    """The main process's value, the same in all."""
    if accelerator.num_processes == 1:
        return value
    return float(broadcast(torch.tensor(value, device=accelerator.device)))


def _check_same(theirs: dict[str, str], mine: dict[str, str], checkpoint: Path) -> None:
    """Raise `UserError` where a checkpoint belongs to something else than this run; one that does not say is taken."""
    changed = [name for name, value in theirs.items() if mine.get(name) != value]
    if changed:
        raise UserError(
            f"{checkpoint} was made with another {' and '.join(changed)} than this run has; remove {checkpoint.parent} "
            "or choose another folder (`initial` goes on from a bundle's weights)"
        )


def _check_finite(what: str, value: float, step: int, checkpoint: Path) -> None:
    if not math.isfinite(value):
        kept = f"the last checkpoint is kept in {checkpoint}" if checkpoint.exists() else "no checkpoint is there yet"
        raise RuntimeError(f"the {what} is not finite at step {step}; {kept}")


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
