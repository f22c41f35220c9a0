"""The convolutional autoencoder of the public HART release.

Knows: its layers and their names (the release's own, so that weights load by a plain rename).
Does not know quantisation. Source: the VQGAN autoencoder (arXiv 2012.09841) as VAR and HART use it.

Shapes: B batch, W width, h, w grid. Level 0 is the finest; each further level halves the grid.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hart.config import TokenizerConfig

NORM_EPS = 1e-6


def _norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=NORM_EPS)


class ResnetBlock(nn.Module):
    """(B, W_in, h, w) → (B, W_out, h, w)."""

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in, groups)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = _norm(width_out, groups)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Self-attention with one head over the cells of a grid, (B, W, h, w) → the same."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(width, groups)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    """Block, attention, block on the coarsest grid."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width, groups)
        self.attn_1 = AttentionBlock(width, groups)
        self.block_2 = ResnetBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Stride-2 convolution on a grid padded by one, right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """The blocks of one grid size, attention after each where asked for, and the way to the next grid."""

    def __init__(
        self, width_in: int, width: int, blocks: int, groups: int, *, attention: bool, resample: str
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(width_in if i == 0 else width, width, groups) for i in range(blocks)
        )
        self.attn = nn.ModuleList(AttentionBlock(width, groups) for _ in range(blocks if attention else 0))
        if resample == "down":
            self.downsample: nn.Module = Downsample(width)
        elif resample == "up":
            self.upsample: nn.Module = Upsample(width)
        self._resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        if self._resample == "down":
            return self.downsample(x)
        return self.upsample(x) if self._resample == "up" else x


class ConvolutionalEncoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] → (B, C, H/stride, W/stride), the release's ``encoder`` and ``quant_conv``."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths, groups = config.encoder_widths, config.groups
        last = len(widths) - 1
        stem = config.stem_width or widths[0]
        self.conv_in = nn.Conv2d(3, stem, 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                widths[i - 1] if i else stem, width, config.encoder_blocks[i], groups,
                attention=i == last, resample="" if i == last else "down",
            )
            for i, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(h)))))


class ConvolutionalDecoder(nn.Module):
    """(B, C, h, w) → (B, 3, h·stride, w·stride), the release's ``post_quant_conv`` and ``decoder``, not
    clamped.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths, groups = config.decoder_widths, config.groups
        last = len(widths) - 1
        self.post_quant_conv = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.conv_in = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups)
        self.up = nn.ModuleList(
            Level(
                widths[min(i + 1, last)], width, config.decoder_blocks[i], groups,
                attention=i == last, resample="up" if i else "",
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        h = self.mid(self.conv_in(self.post_quant_conv(latent)))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
