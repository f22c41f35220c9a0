"""The public release's arithmetic once more: slow, in float64, without caches, batches or this package's classes.

Written from the description of the release alone; it works on state dicts under the release's names. `write`
makes a folder of random weights and what they compute, in the form that `hart.verify` reads.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from release_weights import LLM, TOKENIZER, Maker, State, phi_names, tokenizer_state, transformer_state
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F


def linear(s: State, name: str, x: Tensor) -> Tensor:
    y = x @ s[f"{name}.weight"].T
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def rms(s: State, name: str, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def waves(s: State, name: str, step: int) -> Tensor:
    angles = torch.tensor([step * 10000 ** (-j / 128) for j in range(128)], dtype=torch.float64)
    h = linear(s, f"{name}.mlp.0", torch.cat([angles.cos(), angles.sin()]))
    return linear(s, f"{name}.mlp.2", silu(h))


def area(grid: Tensor, side: int) -> Tensor:
    """(C, h, h) → (C, side, side), cell by cell."""
    h = grid.shape[-1]
    edges = [(i * h // side, -((-(i + 1) * h) // side)) for i in range(side)]
    return torch.stack([torch.stack([grid[:, a:b, c:d].mean((1, 2)) for c, d in edges], -1) for a, b in edges], 1)


class Transformer:
    """One picture at a time; every scale recomputes all rows."""

    def __init__(self, llm: dict[str, Any], state: State) -> None:
        self.c, self.s = llm, {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
        self.sides = llm["patch_nums"]

    def embedded(self, hidden: Tensor) -> Tensor:
        if self.c["use_context_norm"]:
            hidden = rms(self.s, "context_norm", hidden)
        return linear(self.s, "context_embed", hidden)

    def level(self, k: int) -> Tensor:
        return waves(self.s, "lvl_embed", k) if self.c["use_timestep_embed"] else self.s["lvl_embed.weight"][k]

    def angles(self, positions: Tensor, upto: int) -> Tensor:
        """(rows, d) of context and scales 1 … upto."""
        d = self.c["embed_dim"] // self.c["num_heads"]
        rows = []
        for position in positions.tolist():
            half = [position * 10000 ** (-2 * j / d) for j in range(d // 2)]
            rows.append(half + half)
        for k in range(1, upto + 1):
            side, stretch = self.sides[k], self.sides[-1] / self.sides[k]
            for r in range(side):
                for c in range(side):
                    row, column = (x * stretch + int(positions[-1]) for x in (r, c))
                    turn = [10000 ** (-4 * j / d) for j in range(d // 4)]
                    quarters = [[row * f for f in turn]] * 2 + [[column * f for f in turn]] * 2
                    rows.append(sum(quarters, []))
        return torch.tensor(rows, dtype=torch.float64)

    def hidden(self, embedded: Tensor, mask: Tensor, positions: Tensor, inputs: list[Tensor]) -> Tensor:
        """Last block's output of all rows: context, then the scales whose inputs (p_k², C) are given."""
        s, c = self.s, self.c
        x = [embedded + self.level(0)]
        levels = [0] * len(embedded)
        for k, part in enumerate(inputs, 1):
            x.append(linear(s, "word_embed", part) + self.level(k))
            levels += [k] * len(part)
        x = torch.cat(x)
        sees = torch.tensor([[b <= a for b in levels] for a in levels])
        angles = self.angles(positions, len(inputs))
        average = (embedded * mask[:, None]).sum(0) / max(int(mask.sum()), 1)
        for i in range(c["depth"]):
            g1, g2, s1, s2, b1, b2 = self.six(f"blocks.{i}", embedded, average)
            h = rms(s, f"blocks.{i}.ln_wo_grad", x) * (1 + s1) + b1
            x = x + g1 * self.attention(f"blocks.{i}.attn", h, angles, sees)
            h = rms(s, f"blocks.{i}.ln_wo_grad", x) * (1 + s2) + b2
            up = silu(linear(s, f"blocks.{i}.ffn.gate_proj", h)) * linear(s, f"blocks.{i}.ffn.up_proj", h)
            x = x + g2 * linear(s, f"blocks.{i}.ffn.down_proj", up)
        return x

    def six(self, block: str, embedded: Tensor, average: Tensor) -> list[Tensor]:
        one, zero = torch.tensor(1.0), torch.tensor(0.0)
        if not self.c["disable_aln"]:
            pooled = embedded.max(0).values if self.c["sep_aln_pooling_mode"] == "max" else average
            return list(linear(self.s, f"{block}.ada_lin.1", silu(pooled)).chunk(6))
        if self.c["shared_aln"]:
            return list((self.s[f"{block}.scale_shift_table"] + average).unbind(0))
        return [one, one, zero, zero, zero, zero]

    def attention(self, name: str, h: Tensor, angles: Tensor, sees: Tensor) -> Tensor:
        s, heads = self.s, self.c["num_heads"]
        d = h.shape[1] // heads
        bias = torch.cat([s[f"{name}.q_bias"], torch.zeros(h.shape[1]), s[f"{name}.v_bias"]])
        qkv = h @ s[f"{name}.qkv_proj.weight"].T + bias
        out = []
        for head in range(heads):
            q, k, v = (qkv[:, j * h.shape[1] + head * d :][:, :d] for j in range(3))
            scale = 0.25 / math.sqrt(d)
            if self.c["attn_l2_norm"]:
                strength = s[f"{name}.scale_mul_1H11"][0, head, 0, 0].clamp_max(math.log(100)).exp()
                q = q / q.norm(dim=1, keepdim=True) * strength
                k, scale = k / k.norm(dim=1, keepdim=True), 1.0
            scores = (turned(q, angles) @ turned(k, angles).T * scale).masked_fill(~sees, -math.inf)
            out.append(scores.softmax(-1) @ v)
        return linear(s, f"{name}.proj", torch.cat(out, dim=1))

    def logits(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = linear(self.s, "head_nm.ada_lin.1", silu(embedded.max(0).values)).chunk(2)
        return linear(self.s, "head", rms(self.s, "head_nm.ln_wo_grad", hidden) * (1 + scale) + shift)

    def denoise(self, noisy: Tensor, step: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        s, net = self.s, "diffloss.net"
        y = waves(s, f"{net}.time_embed", step) + linear(s, f"{net}.cond_embed", condition)
        h = linear(s, f"{net}.input_proj", noisy)
        for i in range(self.c["diff_depth"]):
            b = f"{net}.res_blocks.{i}"
            shift, scale, gate = linear(s, f"{b}.adaLN_modulation.1", silu(y)).chunk(3, -1)
            normed = F.layer_norm(h, h.shape[-1:], s[f"{b}.in_ln.weight"], s[f"{b}.in_ln.bias"], eps=1e-6)
            h = h + gate * linear(s, f"{b}.mlp.2", silu(linear(s, f"{b}.mlp.0", normed * (1 + scale) + shift)))
        shift, scale = linear(s, f"{net}.final_layer.adaLN_modulation.1", silu(y)).chunk(2, -1)
        h = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift
        noise, fraction = linear(s, f"{net}.final_layer.linear", h).chunk(2, -1)
        return noise, fraction

    def sample(self, condition: Tensor, other: Tensor | None, t: float, noises: list[Tensor]) -> Tensor:
        """The residual in latent units, from the start noises[0] and one draw per step."""
        edges = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        full = np.cumprod(1 - np.minimum(1 - edges[1:] / edges[:-1], 0.999))
        count = int(self.c["num_sampling_steps"])
        numbers = [round(i * 999 / (count - 1)) for i in range(count)]
        bar = [1.0, *full[numbers]]
        beta = [1 - bar[i + 1] / bar[i] for i in range(count)]
        posterior = [beta[i] * (1 - bar[i]) / (1 - bar[i + 1]) for i in range(count)]
        posterior[0] = posterior[1]
        rows = len(condition)
        x = noises[0][:rows].double()
        for draw, i in zip(noises[1:], reversed(range(count)), strict=True):
            noise, fraction = self.denoise(x, numbers[i], condition)
            if other is not None:
                noise = (1 + t) * noise - t * self.denoise(x, numbers[i], other)[0]
            clean = (x / bar[i + 1] ** 0.5 - (1 / bar[i + 1] - 1) ** 0.5 * noise).clamp(-1, 1)
            mean = beta[i] * bar[i] ** 0.5 / (1 - bar[i + 1]) * clean
            mean = mean + (1 - bar[i]) * (1 - beta[i]) ** 0.5 / (1 - bar[i + 1]) * x
            v = (fraction + 1) / 2
            log_variance = v * math.log(beta[i]) + (1 - v) * math.log(posterior[i])
            x = mean + (0.5 * log_variance).exp() * draw[:rows].double() if i else mean
        return 0.6 * x


def turned(x: Tensor, angles: Tensor) -> Tensor:
    half = x.shape[1] // 2
    out = torch.empty_like(x)
    for i in range(half):
        out[:, i] = x[:, i] * angles[:, i].cos() - x[:, half + i] * angles[:, i].sin()
        other = angles[:, half + i]
        out[:, half + i] = x[:, half + i] * other.cos() + x[:, i] * other.sin()
    return out


class Tokenizer:
    """The release's autoencoder and quantiser, one picture at a time."""

    def __init__(self, tok: dict[str, Any], state: State) -> None:
        self.c, self.s = tok, {k.removeprefix("vae."): v.double() for k, v in state.items()}
        self.book = self.s["quantize.embedding.weight"]
        self.phis = [name.removeprefix("vae.") for name in phi_names(tok)]

    def conv(self, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.s[f"{name}.weight"], self.s[f"{name}.bias"], padding=padding, stride=stride)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.s[f"{name}.weight"], self.s[f"{name}.bias"], eps=1e-6)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", silu(self.norm(f"{name}.norm1", x)))
        h = self.conv(f"{name}.conv2", silu(self.norm(f"{name}.norm2", h)))
        short = f"{name}.nin_shortcut"
        return (self.conv(short, x, 0) if f"{short}.weight" in self.s else x) + h

    def attend(self, name: str, x: Tensor) -> Tensor:
        q, k, v = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", x), 0).flatten(2)[0].chunk(3)
        weights = (q.T @ k / q.shape[0] ** 0.5).softmax(-1)
        return x + self.conv(f"{name}.proj_out", (v @ weights.T).view(x.shape), 0)

    def middle(self, name: str, x: Tensor) -> Tensor:
        return self.block(f"{name}.block_2", self.attend(f"{name}.attn_1", self.block(f"{name}.block_1", x)))

    def encode(self, image: Tensor) -> Tensor:
        x, last = self.conv("encoder.conv_in", image[None]), len(self.c["ch_mult"]) - 1
        for i in range(last + 1):
            for j in range(2):
                x = self.block(f"encoder.down.{i}.block.{j}", x)
                x = self.attend(f"encoder.down.{i}.attn.{j}", x) if i == last else x
            if i < last:
                x = self.conv(f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), 0, 2)
        x = silu(self.norm("encoder.norm_out", self.middle("encoder.mid", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x))[0]

    def decode(self, latent: Tensor) -> Tensor:
        x, last = self.conv("decoder.conv_in", self.conv("post_quant_conv", latent[None])), len(self.c["ch_mult"]) - 1
        x = self.middle("decoder.mid", x)
        for i in reversed(range(last + 1)):
            for j in range(3):
                x = self.block(f"decoder.up.{i}.block.{j}", x)
                x = self.attend(f"decoder.up.{i}.attn.{j}", x) if i == last else x
            if i:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"decoder.up.{i}.upsample.conv", x)
        return self.conv("decoder.conv_out", silu(self.norm("decoder.norm_out", x)))[0].clamp(-1, 1)

    def phi(self, h: Tensor, k: int, scales: int) -> Tensor:
        count = len(self.phis)
        inset = 1 / 3 / count if count == 4 else 1 / 2 / count
        ticks = np.linspace(inset, 1 - inset, count) if count > 1 else np.array([0.5])
        distance = list(np.abs(ticks - k / (scales - 1)))
        index = max(i for i, value in enumerate(distance) if value == min(distance))
        return 0.5 * h + 0.5 * self.conv(self.phis[index], h[None])[0]

    def added(self, vectors: Tensor, k: int, sides: list[int], phi: bool) -> Tensor:
        """(p_k², C) vectors → what they add to the latent."""
        h = vectors.T.unflatten(1, (sides[k], sides[k]))
        h = F.interpolate(h[None], size=(sides[-1],) * 2, mode="bicubic")[0] if sides[k] != sides[-1] else h
        return self.phi(h, k, len(sides)) if phi else h

    def nearest(self, rows: Tensor) -> Tensor:
        return torch.stack([(self.book - row).square().sum(1).argmin() for row in rows])

    def quantise(self, latent: Tensor, hybrid: bool) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
        """Codes, accumulated latent, the last scale's rest, teacher inputs."""
        sides, f_hat, codes, inputs = self.c["v_patch_nums"], torch.zeros_like(latent), [], []
        rest = latent
        for k, side in enumerate(sides):
            if k:
                inputs.append(area(f_hat, side).flatten(1).T)
            rest = area(latent - f_hat, side).flatten(1).T
            codes.append(self.nearest(rest))
            last = k == len(sides) - 1
            f_hat = f_hat + self.added(self.book[codes[-1]], k, sides, phi=not (hybrid and last))
        return codes, f_hat, rest, inputs


def guided(
    transformer: Transformer, tokenizer: Tokenizer, context: list[Tensor], scale: float, noises: list[Tensor],
    one_is_neutral: bool,
):  # fmt: skip
    """One prompt: logits and greedy codes per scale, and the picture in [0, 1]."""
    t5, sides = transformer, transformer.sides
    hidden, mask, positions = context
    nothing = torch.zeros_like(mask)
    nothing[0] = 1
    halves = [
        (t5.embedded(hidden.double()), mask, positions),
        (t5.embedded(torch.zeros_like(hidden).double()), nothing, torch.zeros_like(positions)),
    ]
    f_hat = torch.zeros(tokenizer.book.shape[1], sides[-1], sides[-1], dtype=torch.float64)
    inputs: list[Tensor] = []
    every_logits, every_codes = [], []
    for k, side in enumerate(sides):
        if k:
            inputs.append(area(f_hat, side).flatten(1).T)
        rows = [t5.hidden(*half, inputs)[-side * side :] for half in halves]
        t = scale * (min(k, len(sides) - 2) / (len(sides) - 1))
        one, other = (t5.logits(x, half[0]) for x, half in zip(rows, halves, strict=True))
        every_logits.append((1 + t) * one - t * other)
        every_codes.append(every_logits[-1].argmax(-1))
        vectors = tokenizer.book[every_codes[-1]]
        f_hat = f_hat + tokenizer.added(vectors, k, sides, phi=k < len(sides) - 1)
    conditions = [rms(t5.s, "decoder_norm", x + linear(t5.s, "word_embed", vectors)) for x in rows]
    other_condition = None if one_is_neutral and t == 1 else conditions[1]
    f_hat = f_hat + t5.sample(conditions[0], other_condition, t, noises).T.view(f_hat.shape)
    return every_logits, every_codes, (tokenizer.decode(f_hat) + 1) / 2


def write(
    folder: Path, llm: dict[str, Any] | None = None, tok: dict[str, Any] | None = None, seed: int = 0,
    guidances: tuple[float, ...] = (0, 4.5), one_is_neutral: bool = False,
) -> None:
    """A folder of random weights with settings changed by `llm` and `tok`, and its recording.

    one_is_neutral: as the release's code does, leave the residual unguided where its guidance is exactly 1, and
    draw a start for both halves.
    """
    llm, tok = LLM | (llm or {}), TOKENIZER | (tok or {})
    weights = transformer_state(llm, tok["z_channels"], tok["vocab_size"], seed)
    tokenizer_weights = tokenizer_state(tok, seed + 1)
    for name, config, state in (("llm", llm, weights), ("tokenizer", tok, tokenizer_weights)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        torch.save(state, folder / name / "pytorch_model.bin")
    transformer, tokenizer, make = Transformer(llm, weights), Tokenizer(tok, tokenizer_weights), Maker(seed + 2)
    golden: State = {}
    _record_tokenizer(golden, tokenizer, make)
    _record_transformer(golden, transformer, tokenizer, make, guidances, one_is_neutral)
    cond = make.normal(7, llm["embed_dim"])
    noises = [make.normal(7, tok["z_channels"]) for _ in range(1 + int(llm["num_sampling_steps"]))]
    golden |= {"diff.cond": cond} | {f"diff.noise.{i}": noise for i, noise in enumerate(noises)}
    golden["diff.sample"] = transformer.sample(cond.double(), None, 0.0, noises)
    stored = {k: (v.float() if v.is_floating_point() else v).contiguous() for k, v in golden.items()}
    save_file(stored, folder / "golden.safetensors")


def _record_tokenizer(golden: State, tokenizer: Tokenizer, make: Maker) -> None:
    side = tokenizer.c["v_patch_nums"][-1] * 2 ** (len(tokenizer.c["ch_mult"]) - 1)
    image = make.normal(2, 3, side, side).clamp(-1, 1)
    golden["tok.image"] = image
    latents = [tokenizer.encode(one.double()) for one in image]
    golden["tok.latent"] = torch.stack(latents)
    for path in ("discrete", "hybrid"):
        codes, f_hats, rests, inputs = zip(*(tokenizer.quantise(x, path == "hybrid") for x in latents), strict=True)
        for k, pair in enumerate(zip(*codes, strict=True)):
            golden[f"tok.codes_{path}.{k}"] = torch.stack(pair)
        if path == "discrete":
            golden["tok.fhat_discrete"] = torch.stack(f_hats)
            golden["tok.recon_discrete"] = torch.stack([tokenizer.decode(f) for f in f_hats])
        else:
            golden["tok.last_scale_latent"] = torch.stack(rests)
            golden["tok.var_input"] = torch.stack([torch.cat(one) for one in inputs])
            golden["tok.recon_hybrid"] = torch.stack([tokenizer.decode(x) for x in latents])


def _record_transformer(
    golden: State, transformer: Transformer, tokenizer: Tokenizer, make: Maker, guidances: tuple[float, ...],
    one_is_neutral: bool,
) -> None:  # fmt: skip
    llm, rows, channels = transformer.c, transformer.sides[-1] ** 2, tokenizer.book.shape[1]
    length = llm["context_token"]
    # One prompt padded on the right, one on the left.
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    mask[1, :1] = 0
    context = [make.normal(2, length, llm["context_dim"]), mask, mask.cumsum(1) - 1]
    for name, value in zip(("context", "context_mask", "context_position_ids"), context, strict=True):
        golden[f"t2i.{name}"] = value
    for scale in guidances:
        prefix = f"t2i.cfg{scale:g}"
        noises = [make.normal((4 if one_is_neutral else 2) * rows, channels)]
        noises += [make.normal(4 * rows, channels) for _ in range(int(llm["num_sampling_steps"]))]
        golden |= {f"{prefix}.noise.{i}": noise for i, noise in enumerate(noises)}
        images = []
        for b in range(2):
            own = [noise[b * rows : (b + 1) * rows] for noise in noises]
            one = [part[b] for part in context]
            logits, codes, image = guided(transformer, tokenizer, one, float(scale), own, one_is_neutral)
            images.append(image)
            for k in range(len(codes)):
                for name, values in (("logits", logits), ("codes", codes)):
                    golden.setdefault(f"{prefix}.{name}.{k}", torch.zeros(2, *values[k].shape).to(values[k].dtype))
                    golden[f"{prefix}.{name}.{k}"][b] = values[k]
        golden[f"{prefix}.image"] = torch.stack(images)
