"""How a run is trained: budget, rates, precision, intervals; a section of a config file.

Knows no loop and no task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        not_negative = ("minutes", "learning_rate", "matrix_rate", "final_rate", "weight_decay", "clip", "save_minutes")
        for name in (*not_negative, "steps", "seed"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"train.{name} is a number of at least 0, got {value}")
        if not (0 <= self.average < 1 and all(0 <= beta < 1 for beta in self.betas) and len(self.betas) == 2):
            got = f"{self.average}, {self.betas}"
            raise ValueError(f"train.average and the two train.betas are at least 0 and below 1, got {got}")
        for name in ("batch_size", "accumulate", "log_every", "validate_every", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("auto", "no", "bf16"):
            raise ValueError(f'train.precision is "auto", "no" or "bf16", got {self.precision!r}')
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f'train.optimizer is "adamw" or "muon", got {self.optimizer!r}')
        if self.device not in ("auto", "cpu"):
            raise ValueError(f'train.device is "auto" or "cpu", got {self.device!r}')
