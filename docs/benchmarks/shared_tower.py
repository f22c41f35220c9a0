"""One shared tower against two, at equal compute: held-out losses after the same minutes on the same batches.

    python docs/benchmarks/shared_tower.py --tokenizer runs/tokenizer --minutes 10 --out runs/shared

Every row passes through as many layers of the same width either way; two towers have twice the weights for it.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vlm.training.loop import train
from vlm.training.model import ModelSettings, ModelTask
from vlm.training.settings import TrainSettings


class Compared(ModelTask):
    """A run whose towers may share their layers, and which is judged by its losses alone."""

    def __init__(self, settings: ModelSettings, shared: bool) -> None:
        super().__init__(settings)
        if shared:
            self.module.image.layers = self.module.text.model.layers
            self.module.image.norm = self.module.text.model.norm

    @torch.no_grad()
    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        return self.held_out_losses(module, rounds=4)

    def export(self, module: nn.Module, folder: Path) -> None:
        """Nothing is kept: a shared tower cannot generate, its attention is causal for text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="runs/tokenizer")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/shared"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = TrainSettings(
        minutes=arguments.minutes, batch_size=6, learning_rate=1e-3, optimizer="muon", matrix_rate=2.0,
        validate_every=10**6, log_every=50,
    )
    for name, shared in (("two", False), ("shared", True)):
        task = Compared(replace(ModelSettings(train=settings), tokenizer=arguments.tokenizer), shared)
        weights = sum(weight.numel() for weight in task.module.parameters() if weight.requires_grad)
        train(task, settings, arguments.out / name)
        last = json.loads((arguments.out / name / "curve.jsonl").read_text().splitlines()[-1])
        figures = {key: last[key] for key in sorted(last) if key.startswith(("text_", "code_", "coarse_"))}
        print(f"{name}: {weights:,} trained weights, {last['step']} steps, {figures}")


if __name__ == "__main__":
    main()
