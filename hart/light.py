"""A convolutional autoencoder light enough to train on a laptop's processor.

Knows: layers. Does not know quantisation or losses. Pixels are folded into channels at once (space-to-depth),
so most of the arithmetic happens on small grids; the decoder ends with the inverse fold. The finest level of
the decoder decides how sharp edges are, so width is best spent there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hart.config import TokenizerConfig


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), (B, W, h, w) → the same; starts as the identity."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class LightEncoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] → (B, C, H/stride, W/stride)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.patch = config.patch
        layers: list[nn.Module] = [nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)]
        for level, (width, blocks) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 4, stride=2, padding=1))
            layers.extend(ResidualBlock(width, config.groups) for _ in range(blocks))
        self.layers = nn.Sequential(*layers)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        h = F.pixel_unshuffle(image, self.patch).contiguous(memory_format=torch.channels_last)
        return self.conv_out(F.silu(self.norm_out(self.layers(h))))


class LightDecoder(nn.Module):
    """(B, C, h, w) → (B, 3, h·stride, w·stride), not yet clamped to [-1, 1]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.patch = config.patch
        layers: list[nn.Module] = [nn.Conv2d(config.channels, widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            width, blocks = widths[level], config.decoder_blocks[level]
            layers.extend(ResidualBlock(width, config.groups) for _ in range(blocks))
            if level:
                # A 1×1 convolution on the small grid and a fold cost a ninth of upsampling before a 3×3 one.
                layers += [nn.Conv2d(width, 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)
        self.norm_out = nn.GroupNorm(config.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        h = self.layers(latent.contiguous(memory_format=torch.channels_last))
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)
