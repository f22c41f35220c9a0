"""Learning rates and optimizers: AdamW, and Muon for matrices between hidden rows.

Knows weights and settings, no task.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from vlm.training.settings import TrainSettings


def rate_at(settings: TrainSettings, step: int, progress: float) -> float:
    """Learning rate: a linear warm-up, then a cosine over the budget."""
    warm = min(1.0, (step + 1) / settings.warmup)
    low = settings.final_rate
    return settings.learning_rate * warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def optimizers_for(
    weights: list[nn.Parameter], matrices: list[nn.Parameter], settings: TrainSettings
) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for those that are among the hidden `matrices` and AdamW for the rest."""
    chosen: list[nn.Parameter] = []
    if settings.optimizer == "muon":
        trained = {id(weight) for weight in weights}
        # Each one once: a weight that two stacks share would be moved twice.
        chosen = list({id(weight): weight for weight in matrices if id(weight) in trained}.values())
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
