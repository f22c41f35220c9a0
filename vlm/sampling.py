"""What may be chosen when generating, and one draw from scores.

Knows options and random draws. Knows no model. Every draw comes from one CPU generator, so a seed means the
same on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vlm.config import HartVLMConfig

PerScale = float | tuple[float, ...]


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one generation; checked when made, got and expected named in the ValueError.

    seed: fixes every draw. max_new_tokens: text ids of the answer, pictures not counted.
    temperature 0 is greedy; top_k 0 and top_p 1 are off. The code_* settings hold for every scale, or are a
    tuple with one value per scale. guidance and residual_steps: None means the model's default; guidance 0 is
    neutral. residual_temperature scales the noise of the residual's diffusion steps.
    previews: decode a coarse picture at every scale.
    """

    seed: int = 0
    max_new_tokens: int = 1024
    temperature: float = 0.2
    top_k: int = 0
    top_p: float = 0.95
    code_temperature: PerScale = 0.2
    code_top_k: int | tuple[int, ...] = 0
    code_top_p: PerScale = 0.95
    guidance: float | None = None
    residual_steps: int | None = None
    residual_temperature: float = 0.5
    previews: bool = True

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**63, "seed in [0, 2**63)", self.seed)
        _check(self.max_new_tokens >= 1, "max_new_tokens of at least 1", self.max_new_tokens)
        for name in ("temperature", "code_temperature", "residual_temperature"):
            for value in _each(getattr(self, name)):
                _check(value >= 0, f"{name} of at least 0", value)
        for name in ("top_k", "code_top_k"):
            for value in _each(getattr(self, name)):
                _check(value == int(value) >= 0, f"{name} as a whole number, 0 for off", value)
        for name in ("top_p", "code_top_p"):
            for value in _each(getattr(self, name)):
                _check(0 < value <= 1, f"{name} in (0, 1]", value)
        _check(self.guidance is None or self.guidance >= 0, "guidance of at least 0 (neutral)", self.guidance)
        _check(
            self.residual_steps is None or self.residual_steps >= 2,
            "residual_steps of 2 or more",
            self.residual_steps,
        )

    def check_scales(self, config: HartVLMConfig) -> None:
        """Raises ValueError when a per-scale setting does not have one value per scale of the model."""
        for name in ("code_temperature", "code_top_k", "code_top_p"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(config.scales):
                raise ValueError(
                    f"expected {len(config.scales)} values of {name}, one per scale, got {len(value)}"
                )

    def text_warpers(self) -> LogitsProcessorList | None:
        """How text scores are reshaped before the draw; None: greedy."""
        return warpers(self.temperature, self.top_k, self.top_p)

    def code_warpers(self, scale: int) -> LogitsProcessorList | None:
        """The same for the codes of one scale (from 0)."""
        at = [_at(value, scale) for value in (self.code_temperature, self.code_top_k, self.code_top_p)]
        return warpers(at[0], int(at[1]), at[2])


def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList | None:
    """Temperature, then top k, then top p, each only where it does something; None when temperature is 0."""
    if temperature == 0:
        return None
    chain = LogitsProcessorList()
    if temperature != 1:
        chain.append(TemperatureLogitsWarper(float(temperature)))
    if top_k > 0:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    return chain


def draw(scores: Tensor, chain: LogitsProcessorList | None, generator: torch.Generator) -> Tensor:
    """(N, V) scores → (N,) int64 choices on the CPU. Raises ValueError when a row allows nothing."""
    scores = scores.detach().float().cpu()
    if bool(torch.isneginf(scores).all(dim=-1).any()):
        raise ValueError("every choice is forbidden: the rules of the stream leave nothing to draw")
    if chain is None:
        return scores.argmax(dim=-1)
    no_ids: Any = torch.empty(len(scores), 0, dtype=torch.long)
    scores = chain(no_ids, scores)
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator).flatten()


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _at(value: float | tuple[float, ...], scale: int) -> float:
    return value[scale] if isinstance(value, tuple) else value


def _check(good: bool, expected: str, got: object) -> None:
    if not good:
        raise ValueError(f"expected {expected}, got {got}")
