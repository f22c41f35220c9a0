"""Random weights under the public release's names, and small configs in its form.

Knows the names and shapes that each switch brings; knows no arithmetic (`release_reference`) and none of this
package's classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

LLM: dict[str, Any] = {
    "context_token": 5, "context_dim": 10, "depth": 2, "embed_dim": 32, "num_heads": 2, "patch_nums": [1, 2, 3],
    "attn_type": "llama", "mlp_type": "llama", "diff_width": 16, "diff_depth": 1, "num_sampling_steps": "8",
    "sampler": "iddpm", "attn_l2_norm": True, "disable_aln": True, "shared_aln": False,
    "use_timestep_embed": True, "use_context_norm": True, "context_norm_scale": 0.7,
    "sep_aln_pooling_mode": "max", "model_type": "hart_transformer_t2i",
}  # fmt: skip
TOKENIZER: dict[str, Any] = {
    "vocab_size": 24, "z_channels": 6, "ch": 32, "ch_mult": [1, 1], "v_patch_nums": [1, 2, 3],
    "quantizer_type": "var_hybrid", "hybrid": True, "share_quant_resi": 4, "using_znorm": False,
    "model_type": "hart_autoencoder_with_disc",
}  # fmt: skip


class Maker:
    """Random tensors by name, float32 (as stored)."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=self.generator) * std + mean

    def linear(self, name: str, out: int, into: int, bias: bool = True) -> None:
        self.state[f"{name}.weight"] = self.normal(out, into, std=into**-0.5)
        if bias:
            self.state[f"{name}.bias"] = self.normal(out, std=0.1)

    def norm(self, name: str, width: int, bias: bool = False) -> None:
        self.state[f"{name}.weight"] = self.normal(width, std=0.1, mean=1.0)
        if bias:
            self.state[f"{name}.bias"] = self.normal(width, std=0.1)

    def conv(self, name: str, out: int, into: int, side: int = 3) -> None:
        self.state[f"{name}.weight"] = self.normal(out, into, side, side, std=(into * side * side) ** -0.5)
        self.state[f"{name}.bias"] = self.normal(out, std=0.1)


def transformer_state(llm: dict[str, Any], channels: int, codes: int, seed: int) -> State:
    """Random weights under the release's names, rebuildable buffers included."""
    make, width = Maker(seed), llm["embed_dim"]
    make.linear("word_embed", width, channels)
    make.linear("context_embed", width, llm["context_dim"])
    if llm["use_context_norm"]:
        make.norm("context_norm", llm["context_dim"])
    if llm["use_timestep_embed"]:
        make.linear("lvl_embed.mlp.0", width, 256)
        make.linear("lvl_embed.mlp.2", width, width)
    else:
        make.state["lvl_embed.weight"] = make.normal(len(llm["patch_nums"]), width)
    hidden = int(width * llm.get("mlp_ratio", 4.0) * 2 / 3 + 255) // 256 * 256
    for i in range(llm["depth"]):
        block = f"blocks.{i}"
        make.linear(f"{block}.attn.qkv_proj", 3 * width, width, bias=False)
        make.linear(f"{block}.attn.proj", width, width)
        for name in ("q_bias", "v_bias"):
            make.state[f"{block}.attn.{name}"] = make.normal(width, std=0.1)
        make.state[f"{block}.attn.zero_k_bias"] = torch.zeros(width)
        if llm["attn_l2_norm"]:
            # Some heads above the cap of 100.
            scale = make.normal(1, llm["num_heads"], 1, 1, std=2.0, mean=3.0)
            make.state[f"{block}.attn.scale_mul_1H11"] = scale
        make.linear(f"{block}.ffn.gate_proj", hidden, width, bias=False)
        make.linear(f"{block}.ffn.up_proj", hidden, width, bias=False)
        make.linear(f"{block}.ffn.down_proj", width, hidden, bias=False)
        make.norm(f"{block}.ln_wo_grad", width)
        if not llm["disable_aln"]:
            make.linear(f"{block}.ada_lin.1", 6 * width, width)
        elif llm["shared_aln"]:
            make.state[f"{block}.scale_shift_table"] = make.normal(6, width, std=0.3)
    make.norm("head_nm.ln_wo_grad", width)
    make.linear("head_nm.ada_lin.1", 2 * width, width)
    make.linear("head", codes, width)
    make.norm("decoder_norm", width)
    net, inner = "diffloss.net", llm["diff_width"]
    make.linear(f"{net}.time_embed.mlp.0", inner, 256)
    make.linear(f"{net}.time_embed.mlp.2", inner, inner)
    make.linear(f"{net}.cond_embed", inner, width)
    make.linear(f"{net}.input_proj", inner, channels)
    for i in range(llm["diff_depth"]):
        make.norm(f"{net}.res_blocks.{i}.in_ln", inner, bias=True)
        make.linear(f"{net}.res_blocks.{i}.mlp.0", inner, inner)
        make.linear(f"{net}.res_blocks.{i}.mlp.2", inner, inner)
        make.linear(f"{net}.res_blocks.{i}.adaLN_modulation.1", 3 * inner, inner)
    make.linear(f"{net}.final_layer.linear", 2 * channels, inner)
    make.linear(f"{net}.final_layer.adaLN_modulation.1", 2 * inner, inner)
    rows = llm["context_token"] + sum(p * p for p in llm["patch_nums"][1:])
    make.state["lvl_1L"] = torch.zeros(1, rows, dtype=torch.long)
    make.state["attn_bias_for_masking"] = torch.zeros(1, 1, rows, rows)
    return make.state


def tokenizer_state(tok: dict[str, Any], seed: int) -> State:
    """Random weights of the release's tokenizer, with a discriminator's key that must be ignored."""
    make = Maker(seed)
    widths, channels = [tok["ch"] * m for m in tok["ch_mult"]], tok["z_channels"]
    last = len(widths) - 1

    def block(name: str, into: int, out: int) -> None:
        make.norm(f"{name}.norm1", into, bias=True)
        make.conv(f"{name}.conv1", out, into)
        make.norm(f"{name}.norm2", out, bias=True)
        make.conv(f"{name}.conv2", out, out)
        if into != out:
            make.conv(f"{name}.nin_shortcut", out, into, 1)

    def attention(name: str, width: int) -> None:
        make.norm(f"{name}.norm", width, bias=True)
        make.conv(f"{name}.qkv", 3 * width, width, 1)
        make.conv(f"{name}.proj_out", width, width, 1)

    def middle(name: str) -> None:
        block(f"{name}.block_1", widths[-1], widths[-1])
        attention(f"{name}.attn_1", widths[-1])
        block(f"{name}.block_2", widths[-1], widths[-1])

    make.conv("vae.encoder.conv_in", tok["ch"], 3)
    width = tok["ch"]
    for i, out in enumerate(widths):
        for j in range(2):
            block(f"vae.encoder.down.{i}.block.{j}", width, out)
            width = out
            if i == last:
                attention(f"vae.encoder.down.{i}.attn.{j}", out)
        if i < last:
            make.conv(f"vae.encoder.down.{i}.downsample.conv", out, out)
    middle("vae.encoder.mid")
    make.norm("vae.encoder.norm_out", widths[-1], bias=True)
    make.conv("vae.encoder.conv_out", channels, widths[-1])
    make.conv("vae.quant_conv", channels, channels)
    make.conv("vae.post_quant_conv", channels, channels)
    make.conv("vae.decoder.conv_in", widths[-1], channels)
    middle("vae.decoder.mid")
    width = widths[-1]
    for i in reversed(range(len(widths))):
        for j in range(3):
            block(f"vae.decoder.up.{i}.block.{j}", width, widths[i])
            width = widths[i]
            if i == last:
                attention(f"vae.decoder.up.{i}.attn.{j}", width)
        if i:
            make.conv(f"vae.decoder.up.{i}.upsample.conv", width, width)
    make.norm("vae.decoder.norm_out", widths[0], bias=True)
    make.conv("vae.decoder.conv_out", 3, widths[0])
    make.state["vae.quantize.embedding.weight"] = make.normal(tok["vocab_size"], channels)
    for name in phi_names(tok):
        make.conv(name, channels, channels)
    make.state["vae.quantize.ema_vocab_hit_SV"] = torch.zeros(len(tok["v_patch_nums"]), tok["vocab_size"])
    make.state["disc.main.0.weight"] = torch.zeros(2, 2)
    return make.state


def phi_names(tok: dict[str, Any]) -> list[str]:
    shared, stem = tok["share_quant_resi"], "vae.quantize.quant_resi"
    if shared == 1:
        return [f"{stem}.qresi"]
    if shared == 0:
        return [f"{stem}.{i}" for i in range(len(tok["v_patch_nums"]))]
    return [f"{stem}.qresi_ls.{i}" for i in range(shared)]
