"""The settings of a tokenizer and of a text-to-image transformer, as plain values that survive JSON.

Knows: which numbers must agree with each other. Does not know modules, weights or the release's field names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

AUTOENCODERS = ("light", "convolutional")
MODULATIONS = ("none", "shared", "per_layer")
POOLINGS = ("max", "avg")
LEVEL_EMBEDDINGS = ("sinusoidal", "table")


class _Settings:
    """To JSON and back, for the frozen dataclasses here."""

    what: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; tuples become lists."""
        values = asdict(self)  # type: ignore[call-overload]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`. Raises ValueError naming unknown keys."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown {cls.what} config keys {unknown}, expected some of {sorted(known)}")
        return cls(**values)


@dataclass(frozen=True)
class TokenizerConfig(_Settings):
    """Everything that fixes the architecture of a :class:`hart.tokenizer.HybridTokenizer`.

    Widths and blocks run from the finest level to the coarsest; each further level halves the grid. ``patch``
    is the side of the pixel squares that the light autoencoder folds into channels first (the convolutional
    one has none: 1). ``stem_width`` is the width between the convolutional encoder's first convolution and its
    first block, None for the finest level's. ``residual_scale`` is what residuals are divided by for the
    diffusion, so that nearly all of them fall into [-1, 1]. Raises ValueError when the values do not fit together.
    """

    what: ClassVar[str] = "tokenizer"

    resolution: int = 128
    autoencoder: str = "light"
    channels: int = 24
    vocab_size: int = 2048
    sides: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    shared_convs: int = 4
    residual_scale: float = 0.6
    normalise_latent: bool = True
    patch: int = 4
    stem_width: int | None = None
    encoder_widths: tuple[int, ...] = (64, 128, 256)
    encoder_blocks: tuple[int, ...] = (1, 1, 1)
    decoder_widths: tuple[int, ...] = (96, 192, 256)
    decoder_blocks: tuple[int, ...] = (2, 1, 2)
    groups: int = 16

    def __post_init__(self) -> None:
        for name in ("sides", "encoder_widths", "encoder_blocks", "decoder_widths", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.autoencoder not in AUTOENCODERS:
            raise ValueError(f"autoencoder must be one of {AUTOENCODERS}, got {self.autoencoder!r}")
        per_level = (self.encoder_widths, self.encoder_blocks, self.decoder_widths, self.decoder_blocks)
        if len({len(values) for values in per_level}) != 1 or not self.encoder_widths:
            raise ValueError(
                f"widths and blocks must name the same levels, at least one, got {per_level}"
            )
        if self.autoencoder == "convolutional" and self.patch != 1:
            raise ValueError(f"the convolutional autoencoder has patch 1, got {self.patch}")
        if not self.sides or self.resolution != self.sides[-1] * self.stride:
            raise ValueError(
                f"resolution must be the last side times the stride, {self.sides[-1:]} x {self.stride}, "
                f"got {self.resolution}"
            )
        if self.autoencoder == "light" and self.stem_width is not None:
            raise ValueError(f"the light autoencoder has no stem_width, got {self.stem_width}")
        for width in (self.stem_width or self.groups, *self.encoder_widths, *self.decoder_widths):
            if width < 1 or width % self.groups:
                raise ValueError(f"every width must be a multiple of groups={self.groups}, got {width}")
        if not self.residual_scale > 0:
            raise ValueError(f"residual_scale must be positive, got {self.residual_scale}")

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along one side."""
        return self.patch * 2 ** (len(self.encoder_widths) - 1)


@dataclass(frozen=True)
class TransformerConfig(_Settings):
    """Everything that fixes the architecture of a :class:`hart.transformer.HartTransformer`.

    ``vocab_size`` and ``channels`` are the tokenizer's. ``context_tokens`` rows of ``context_width`` describe
    the prompt. ``modulation`` of the layers: "none"; "shared", a table per layer plus the pooled context;
    "per_layer", a projection of the pooled context in each layer. ``pooling`` concerns "per_layer" only;
    "shared" averages, the head takes the maximum. ``level_embedding``: "sinusoidal", or a "table" with one
    row per scale. ``residual_*`` describe the diffusion head: width, blocks, steps, and what residuals are
    divided by. Raises ValueError when the values do not fit together.
    """

    what: ClassVar[str] = "transformer"

    width: int = 1536
    depth: int = 24
    heads: int = 24
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
    vocab_size: int = 4096
    channels: int = 32
    context_tokens: int = 300
    context_width: int = 1536
    context_norm: bool = True
    mlp_ratio: float = 4.0
    query_key_norm: bool = True
    modulation: str = "none"
    pooling: str = "max"
    level_embedding: str = "sinusoidal"
    norm_eps: float = 1e-6
    residual_width: int = 1024
    residual_depth: int = 6
    residual_steps: int = 8
    residual_scale: float = 0.6

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", tuple(self.sides))
        choices = (
            ("modulation", MODULATIONS), ("pooling", POOLINGS), ("level_embedding", LEVEL_EMBEDDINGS),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in (
            "width", "depth", "heads", "vocab_size", "channels", "context_tokens", "context_width",
            "residual_width", "residual_depth",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width must be heads times a multiple of 4 (positions are two-dimensional), "
                f"got width {self.width} and {self.heads} heads"
            )
        if len(self.sides) < 2 or self.sides[0] != 1:
            raise ValueError(f"sides must begin with 1 and name two scales or more, got {self.sides}")
        if self.residual_steps < 2:
            raise ValueError(f"residual_steps must be at least 2, got {self.residual_steps}")
        if not (self.mlp_ratio > 0 and self.residual_scale > 0 and self.norm_eps > 0):
            raise ValueError(
                "mlp_ratio, residual_scale and norm_eps must be positive, "
                f"got {self.mlp_ratio}, {self.residual_scale}, {self.norm_eps}"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head, a multiple of 4."""
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the gated MLP: two thirds of ``mlp_ratio`` widths, rounded up to 256."""
        return int(self.width * self.mlp_ratio * 2 / 3 + 255) // 256 * 256
