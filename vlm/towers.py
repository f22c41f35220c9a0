"""One training pass through both towers: own weights for own rows, one attention for all of them.

Knows the layers that Llama, Qwen2 and Qwen3 share. Does not know what the rows mean; the mask says who sees
whom.
Rows are packed: T text rows then I image rows, N = T + I; H heads of width d.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from vlm.masks import Blocks, RowTable


def joint_forward(
    text: Any,
    image: Any,
    text_rows: Tensor,
    image_rows: Tensor,
    rows: RowTable,
    blocks: Blocks,
    *,
    checkpointing: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run decoder stacks `text` and `image` (each with layers, norm, rotary_emb) over one pass of mixed rows.

    text_rows: (T, W) and image_rows: (I, W') input embeddings in the order of `rows`, which attend by `blocks`.
    checkpointing: keep only what goes from layer to layer, and run each layer again in the backward pass.
    Returns the normed hidden states, (T, W) and (I, W'). Equal to the cached steps, tested in float32.
    """
    split = text_rows.shape[0]
    stacks = [(text, slice(None, split)), (image, slice(split, None))]
    hidden = [text_rows, image_rows]
    rotary = [
        stack.rotary_emb(states[None], position_ids=rows.position[None, part])
        for (stack, part), states in zip(stacks, hidden, strict=True)
    ]
    for layers in zip(text.layers, image.layers, strict=True):
        if checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(_layer, layers, hidden, rotary, split, blocks, use_reentrant=False)
        else:
            hidden = _layer(layers, hidden, rotary, split, blocks)
    return text.norm(hidden[0]), image.norm(hidden[1])


def _layer(
    layers: tuple[Any, Any], hidden: list[Tensor], rotary: list[tuple[Tensor, Tensor]], split: int, blocks: Blocks
) -> list[Tensor]:
    """One layer of both towers, the first `split` rows through the text tower's."""
    projected = [
        _project(layer.self_attn, layer.input_layernorm(states), turn)
        for layer, states, turn in zip(layers, hidden, rotary, strict=True)
    ]
    query, key, value = (torch.cat(parts) for parts in zip(*projected, strict=True))
    attended = _attend(query, key, value, blocks, layers[0].self_attn.scaling)
    parts = (attended[:split], attended[split:])
    return [_finish(layer, states, part) for layer, states, part in zip(layers, hidden, parts, strict=True)]


def _project(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(M, W) → query (M, H, d), key and value (M, KV heads, d), turned to their positions."""
    width = attention.head_dim
    # The head count is spelt out: with no rows of a kind, -1 could not be inferred.
    query = attention.q_proj(states).unflatten(-1, (attention.config.num_attention_heads, width))
    key = attention.k_proj(states).unflatten(-1, (attention.config.num_key_value_heads, width))
    value = attention.v_proj(states).unflatten(-1, (attention.config.num_key_value_heads, width))
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    cos, sin = rotary
    query, key = apply_rotary_pos_emb(query[None], key[None], cos, sin, unsqueeze_dim=2)
    return query[0], key[0].to(value.dtype), value


def _attend(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float) -> Tensor:
    """(N, heads, d) each → (N, H·d), block by block."""
    query = query.to(value.dtype)
    grouped = query.shape[1] // key.shape[1]
    if grouped > 1:
        key, value = key.repeat_interleave(grouped, dim=1), value.repeat_interleave(grouped, dim=1)
    attended = []
    for block in blocks.blocks:
        asking, asked, given = (
            _take(part, numbers).transpose(1, 2)
            for part, numbers in ((query, block.queries), (key, block.keys), (value, block.keys))
        )
        out = F.scaled_dot_product_attention(asking, asked, given, attn_mask=block.mask, scale=scale)
        attended.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(attended).index_select(0, blocks.places)


def _take(part: Tensor, numbers: Tensor) -> Tensor:
    """(N, heads, d) and row numbers (G, Q) → (G, Q, heads, d). Indexing as such has a far slower backward pass."""
    return part.index_select(0, numbers.flatten()).unflatten(0, numbers.shape)


def _finish(layer: Any, states: Tensor, attended: Tensor) -> Tensor:
    states = states + layer.self_attn.o_proj(attended)
    return states + layer.mlp(layer.post_attention_layernorm(states))
