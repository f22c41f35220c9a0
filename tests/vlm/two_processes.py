"""Started by torchrun: trains lines and a tiny tokenizer into the folder given, on however many processes.

argv: the folder, and the batch size of each process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor, nn
from training_fixtures import TINY

from vlm.training.loop import leave_processes, train
from vlm.training.settings import TrainSettings
from vlm.training.tokenizer import TokenizerSettings, TokenizerTask


class Line:
    """Fits a line to samples that depend on their number alone."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)

    def settings_record(self) -> dict[str, Any]:
        return {}

    def depends(self) -> dict[str, str]:
        return {}

    def hidden_matrices(self) -> list[nn.Parameter]:
        return []

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Tensor]:
        while True:
            first = (start * world + rank) * batch_size
            yield torch.cat(
                [torch.randn(1, 4, generator=torch.Generator().manual_seed(first + i)) for i in range(batch_size)]
            )
            start += 1

    def loss(
        self, module: nn.Module, batch: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        loss = (module(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss, {"loss": float(loss.detach())}

    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        return {}

    def export(self, module: nn.Module, folder: Path) -> None:
        torch.save(module.state_dict(), folder / "line.pt")


class Slow(Line):
    """A line whose main process spends most of its time on validation, while the others wait for it."""

    def loss(
        self, module: nn.Module, batch: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        time.sleep(0.02)
        return super().loss(module, batch, generator, progress)

    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        time.sleep(0.4)
        return {"seen": 1.0}


def keep_of_all(module: nn.Module, path: Path) -> None:
    """Write the weights of every process, one row each."""
    rows = gather(torch.cat([value.detach().float().flatten() for value in module.state_dict().values()])[None])
    if PartialState().is_main_process:
        torch.save(rows, path)


def main(folder: Path, batch_size: int) -> None:
    settings = TrainSettings(
        steps=20, batch_size=batch_size, learning_rate=1e-2, warmup=2, precision="no", device="cpu", log_every=1
    )
    line: Any = Line()
    train(line, settings, folder / "line")
    assert PartialState().num_processes == int(os.environ["WORLD_SIZE"])
    slow: Any = Slow()
    train(slow, replace(settings, steps=0, minutes=0.025, validate_every=2), folder / "slow")
    keep_of_all(slow.module, folder / "slow" / "all.pt")
    settings = replace(settings, learning_rate=2e-3, validate_every=100)
    tiny = TokenizerSettings(tokenizer=TINY, train=settings, other_styles=0.0, workers=0)
    task = TokenizerTask(tiny)
    task.validate = lambda module, folder, step: {}  # type: ignore[method-assign]
    train(task, settings, folder / "tokenizer")
    keep_of_all(task.module.tokenizer, folder / "tokenizer" / "all.pt")
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
