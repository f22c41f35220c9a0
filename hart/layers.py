"""The layers of HART's transformer: attention over a cache, gated MLP, modulation as a value.

Knows: one layer, and what steers it. Does not know prompts, scales or positions (a rotation comes in ready).
Source: HART (arXiv 2410.10812), every switch as in its public release.

Shapes: B batch, N new rows, H heads of width d, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from hart.config import TransformerConfig
from hart.rotary import rotate

LARGEST_LOG_SCALE = math.log(100)


@dataclass(frozen=True)
class Modulation:
    """The six vectors, each (B, 1, D), by which the prompt steers one layer."""

    gate_attention: Tensor
    gate_mlp: Tensor
    scale_attention: Tensor
    scale_mlp: Tensor
    shift_attention: Tensor
    shift_mlp: Tensor


class LayerCache:
    """Keys and values of one layer, (B, H, rows, d), written in place as rows come."""

    def __init__(self, batch: int, heads: int, rows: int, width: int, like: Tensor) -> None:
        self.keys = like.new_empty(batch, heads, rows, width)
        self.values = like.new_empty(batch, heads, rows, width)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, N, d) of each; returns all so far."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class Attention(nn.Module):
    """Self-attention with optional query/key normalisation before the rotation; (B, N, D) → (B, N, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.backend = "sdpa"
        self.qkv_proj = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.log_scale: nn.Parameter | None = None
        if config.query_key_norm:
            self.log_scale = nn.Parameter(torch.full((1, config.heads, 1, 1), math.log(4)))
        self.softmax_scale = 1.0 if config.query_key_norm else 0.25 / math.sqrt(config.head_width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], cache: LayerCache | None, mask: Tensor | None
    ) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        projected = F.linear(x, self.qkv_proj.weight, bias)
        q, k, v = rearrange(projected, "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if self.log_scale is not None:
            scale = self.log_scale.float().clamp_max(LARGEST_LOG_SCALE).exp()
            q, k = F.normalize(q.float(), dim=-1) * scale, F.normalize(k.float(), dim=-1)
        q, k = rotate(q, turn).to(v.dtype), rotate(k, turn).to(v.dtype)
        if cache is not None:
            k, v = cache.append(k, v)
        if self.backend == "sdpa":
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.softmax_scale)
        else:
            scores = (q @ k.transpose(-2, -1)).float() * self.softmax_scale
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            h = scores.softmax(dim=-1).to(v.dtype) @ v
        return self.proj(rearrange(h, "b h n d -> b n (h d)"))


class GatedMlp(nn.Module):
    """down(silu(gate(x)) · up(x)), without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and MLP behind one shared norm, steered by a :class:`Modulation` or by none."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ffn = GatedMlp(config.width, config.mlp_width)
        self.ada_lin: nn.Sequential | None = None
        self.scale_shift_table: nn.Parameter | None = None
        if config.modulation == "per_layer":
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 6 * config.width))
        elif config.modulation == "shared":
            self.scale_shift_table = nn.Parameter(torch.randn(6, config.width) / config.width**0.5)

    def modulation(self, pooled: Tensor | None) -> Modulation | None:
        """What the pooled context (B, D) makes of this layer; None when the layer takes no modulation."""
        if pooled is None:
            return None
        if self.ada_lin is not None:
            vectors = self.ada_lin(pooled).unflatten(1, (6, -1))
        else:
            assert self.scale_shift_table is not None
            vectors = self.scale_shift_table + pooled[:, None]
        return Modulation(*vectors.chunk(6, dim=1))

    def forward(
        self,
        x: Tensor,
        modulation: Modulation | None,
        turn: tuple[Tensor, Tensor],
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if modulation is None:
            x = x + self.attn(self.norm(x), turn, cache, mask)
            return x + self.ffn(self.norm(x))
        m = modulation
        h = self.norm(x) * (1 + m.scale_attention) + m.shift_attention
        x = x + m.gate_attention * self.attn(h, turn, cache, mask)
        return x + m.gate_mlp * self.ffn(self.norm(x) * (1 + m.scale_mlp) + m.shift_mlp)


class HeadNorm(nn.Module):
    """The norm before the head, with a scale and a shift derived from the prompt."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))

    def modulation(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) → scale and shift, (B, 1, D) each."""
        scale, shift = self.ada_lin(pooled)[:, None].chunk(2, dim=-1)
        return scale, shift

    def forward(self, x: Tensor, modulation: tuple[Tensor, Tensor]) -> Tensor:
        scale, shift = modulation
        return self.norm(x) * (1 + scale) + shift
