"""Pictures to hybrid tokens and back: one interface over a light and a heavy autoencoder.

Knows: autoencoder + quantiser, the range of pictures. Does not know training, files or PIL.

Shapes: B batch, H = W = resolution, C latent channels, p = H / stride the latent's side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hart.autoencoder import ConvolutionalDecoder, ConvolutionalEncoder
from hart.config import TokenizerConfig
from hart.light import LightDecoder, LightEncoder
from hart.quantizer import MultiScaleQuantizer
from hart.schedule import ScaleSchedule
from hart.tokens import HybridTokens

__all__ = ["HybridTokenizer", "TokenizerConfig"]


class HybridTokenizer(nn.Module):
    """``encode`` a picture to codes and residual, ``decode`` them: a preview, the discrete or the hybrid
    picture.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = ScaleSchedule(config.sides)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.autoencoder == "light":
            self.encoder, self.decoder = LightEncoder(config), LightDecoder(config)
        else:
            self.encoder, self.decoder = ConvolutionalEncoder(config), ConvolutionalDecoder(config)
        self.quantizer = MultiScaleQuantizer(
            config.vocab_size, config.channels, self.schedule, config.shared_convs
        )

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return self.config.channels

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along one side."""
        return self.config.stride

    def encode_latent(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float in [-1, 1] → (B, C, p, p) float32 continuous latent. Raises ValueError."""
        expected = (3, self.config.resolution, self.config.resolution)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected or not image.is_floating_point():
            raise ValueError(
                f"expected float pictures (B, {', '.join(map(str, expected))}), "
                f"got {image.dtype} {tuple(image.shape)}"
            )
        latent = self.encoder(image).float()
        if self.config.normalise_latent:
            # Fixed length per cell: the scale cannot drift or collapse, and residuals stay comparable.
            latent = F.normalize(latent, dim=1) * self.config.channels**0.5
        return latent

    def decode_latent(self, latent: Tensor) -> Tensor:
        """(B, C, p, p) → (B, 3, H, W), about [-1, 1] but not clamped, so that training sees every error."""
        dtype = next(self.decoder.parameters()).dtype
        return self.decoder(latent.to(dtype))

    @torch.no_grad()
    def encode(self, image: Tensor) -> HybridTokens:
        """(B, 3, H, W) float in [-1, 1] → hybrid tokens. Raises ValueError on another shape or dtype."""
        return self.quantizer.encode(self.encode_latent(image))

    @torch.no_grad()
    def decode(self, tokens: HybridTokens, scales: int | None = None, residual: bool = True) -> Tensor:
        """Tokens → (B, 3, H, W) float32 in [-1, 1].

        scales: the coarsest n scales only, a preview (None: all). residual: False gives the discrete picture,
        True the hybrid one; a preview never has a residual. Raises ValueError.
        """
        latent = self.quantizer.latent(tokens, scales=scales, residual=residual)
        return self.decode_latent(latent).float().clamp(-1, 1)
