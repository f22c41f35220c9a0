"""What the image tokenizer alone can carry: the ceiling of every drawn picture."""

from __future__ import annotations

import random

import torch

from vlm.evaluation.guides import Judged
from vlm.flatpack.build import stages
from vlm.flatpack.checker import check
from vlm.flatpack.product import sample_product
from vlm.flatpack.render import render
from vlm.flatpack.style import random_style
from vlm.model import HartVLM
from vlm.pictures import psnr, to_images, to_tensor


@torch.no_grad()
def tokenizer_figures(model: HartVLM, count: int, seed: int) -> dict[str, float]:
    """What the image tokenizer alone loses, on `count` held-out renders in the house style and in random ones."""
    tokenizer = model.image_tokenizer
    size = tokenizer.config.resolution
    rng = random.Random(f"{seed}:tokenizer")
    cases = []
    for _ in range(count):
        product = sample_product(rng, "held_out")
        cases.append((product, rng.randrange(len(stages(product)))))
    hybrid, discrete, ious, accepted, others = [], [], [], 0, 0
    for start in range(0, count, 16):
        part = cases[start : start + 16]
        images = [render(product, step, size) for product, step in part]
        pixels = to_tensor(images).to(model.device)
        tokens = tokenizer.encode(pixels)
        decoded = tokenizer.decode(tokens)
        hybrid += psnr(decoded, pixels).tolist()
        discrete += psnr(tokenizer.decode(tokens, residual=False), pixels).tolist()
        for (product, step), image in zip(part, to_images(decoded), strict=True):
            verdict = check(image, product, step)
            accepted += verdict.ok
            ious += [figure.iou for figure in verdict.parts]
            other = sample_product(rng, "held_out")
            while other == product:
                other = sample_product(rng, "held_out")
            others += check(render(other, min(step, len(stages(other)) - 1), size), product, step).ok
    styled = random.Random(f"{seed}:styles")
    elsewhere = []
    for product, step in cases[: max(1, count // 2)]:
        pixels = to_tensor([render(product, step, size, random_style(styled))]).to(model.device)
        elsewhere += psnr(tokenizer.decode(tokenizer.encode(pixels)), pixels).tolist()
    return {
        "tokenizer.psnr_other_styles": float(torch.tensor(elsewhere).median()),
        "tokenizer.psnr_hybrid": float(torch.tensor(hybrid).median()),
        "tokenizer.psnr_discrete": float(torch.tensor(discrete).median()),
        "tokenizer.part_iou": sum(ious) / len(ious),
        "ceiling.truth": accepted / count,
        "baseline.truth": others / count,
    }


@torch.no_grad()
def residual_gain(model: HartVLM, judged: list[Judged]) -> dict[str, float]:
    """What the residual head adds to drawn pictures: with minus without it, in median dB and in share accepted.

    Pictures of guides whose product is not known count as wrong either way and have no dB.
    """
    tokenizer = model.image_tokenizer
    size = tokenizer.config.resolution
    gains, with_it, without, count = [], 0, 0, 0
    for one in judged:
        count += one.expected
        with_it += one.right_pictures
        if one.truth is None:
            continue
        for step, (picture, tokens) in enumerate(zip(one.pictures, one.tokens, strict=True)):
            if step >= len(stages(one.truth)):
                break
            true = to_tensor([render(one.truth, step, size)])
            bare = tokenizer.decode(tokens.to(model.device), residual=False).cpu()
            gains.append(float(psnr(to_tensor([picture]), true) - psnr(bare, true)))
            without += check(to_images(bare)[0], one.truth, step).ok
    return {
        "residual.gain_psnr": float(torch.tensor(gains).median()) if gains else 0.0,
        "residual.gain_truth": (with_it - without) / max(1, count),
    }
