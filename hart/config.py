"""The settings of a tokenizer, as plain values that survive JSON.

Knows: which numbers must agree with each other. Does not know modules or weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

AUTOENCODERS = ("light", "convolutional")


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything that fixes the architecture of a :class:`hart.tokenizer.HybridTokenizer`.

    Widths and blocks run from the finest level to the coarsest; each further level halves the grid. ``patch``
    is the side of the pixel squares that the light autoencoder folds into channels first (the convolutional
    one has none: 1). ``residual_scale`` is what residuals are divided by for the diffusion, so that nearly
    all of them fall into [-1, 1]. Raises ValueError when the values do not fit together.
    """

    resolution: int = 128
    autoencoder: str = "light"
    channels: int = 24
    vocab_size: int = 2048
    sides: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    shared_convs: int = 4
    residual_scale: float = 0.6
    normalise_latent: bool = True
    patch: int = 4
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
        for width in self.encoder_widths + self.decoder_widths:
            if width % self.groups:
                raise ValueError(f"every width must be a multiple of groups={self.groups}, got {width}")
        if not self.residual_scale > 0:
            raise ValueError(f"residual_scale must be positive, got {self.residual_scale}")

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along one side."""
        return self.patch * 2 ** (len(self.encoder_widths) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; tuples become lists."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TokenizerConfig:
        """Inverse of :meth:`to_dict`. Raises ValueError naming unknown keys."""
        known = {field.name for field in fields(TokenizerConfig)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown tokenizer config keys {unknown}, expected some of {sorted(known)}")
        return TokenizerConfig(**values)
