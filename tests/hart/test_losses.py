"""Losses and codebook: both decodings learn, colour counts, dead codes come back, draws are the generator's.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hart.codebook import CodebookTracker
from hart.losses import TokenizerLossWeights, reconstruction_parts, tokenizer_loss
from hart.tokenizer import HybridTokenizer


def train(model: HybridTokenizer, pictures: torch.Tensor, steps: int) -> list[dict[str, float]]:
    generator = torch.Generator().manual_seed(0)
    tracker = CodebookTracker(model.config.vocab_size, model.channels, revive_every=5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for _ in range(steps):
        loss, metrics = tokenizer_loss(model, pictures, codebook=tracker, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(metrics)
    return history


def test_discrete_and_continuous_pictures_both_improve(tiny, pictures):
    history = train(tiny, pictures, 40)
    first, last = history[0], history[-1]
    assert last["psnr_discrete"] > first["psnr_discrete"] + 3
    assert last["psnr_hybrid"] > first["psnr_hybrid"] + 3
    assert last["loss"] < first["loss"] and last["codebook_perplexity"] > 2
    tokens = tiny.encode(pictures)
    error = (tiny.decode(tokens, residual=False) - pictures).square().mean()
    assert -10 * torch.log10(error / 4) > first["psnr_discrete"] + 3


def test_one_seed_one_result(tiny_config, pictures):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = HybridTokenizer(tiny_config)
        train(model, pictures, 6)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_gradients_reach_everything_but_the_codebook(tiny, pictures):
    tracker = CodebookTracker(32, 6)
    loss, _ = tokenizer_loss(tiny, pictures, codebook=tracker, generator=torch.Generator().manual_seed(0))
    loss.backward()
    without = [name for name, p in tiny.named_parameters() if p.grad is None]
    assert without == ["quantizer.embedding.weight"]


def test_each_part_is_weighed(tiny, pictures):
    def loss(**changes: float) -> tuple[float, dict[str, float]]:
        state = CodebookTracker(32, 6)
        weights = dataclasses.replace(TokenizerLossWeights(), **changes)
        value, metrics = tokenizer_loss(
            tiny, pictures, codebook=state, generator=torch.Generator().manual_seed(0), weights=weights
        )
        return float(value.detach()), metrics

    base, metrics = loss()
    for part in ("absolute", "square", "edge", "chroma", "commitment", "codebook"):
        without, _ = loss(**{part: 0.0})
        weight = getattr(TokenizerLossWeights(), part)
        assert base - without == pytest.approx(weight * metrics[part], rel=1e-3, abs=1e-5), part


def test_grey_for_colour_costs_chroma_and_thin_parts_weigh_more():
    image = torch.full((1, 3, 16, 16), 0.9)
    image[:, :, :, 7] = torch.tensor([0.8, -0.8, -0.8])[:, None]
    grey = image.clone()
    grey[:, :, :, 7] = image[:, :, :, 7].mean(1, keepdim=True)
    darker = image.clone()
    darker[:, :, :, 7] -= (grey - image)[:, :, :, 7].abs().mean()
    assert reconstruction_parts(darker, image, detail=4.0)["chroma"] < 1e-6
    assert reconstruction_parts(grey, image, detail=4.0)["chroma"] > 0.1
    flat = reconstruction_parts(grey, image, detail=0.0)["absolute"]
    assert reconstruction_parts(grey, image, detail=4.0)["absolute"] > 1.5 * flat


def test_dead_codes_are_revived_from_recent_vectors(tiny, pictures):
    tracker = CodebookTracker(32, 6, decay=0.5, revive_every=1)
    generator = torch.Generator().manual_seed(0)
    latent = tiny.encode_latent(pictures).detach()
    tracker.initialise(tiny.quantizer, latent, generator=generator)
    book = tiny.quantizer.embedding.weight
    with torch.no_grad():
        book[:16] = 1e3
    tracker.counts[:16] = 0
    tracker.sums[:16] = 0
    figures = tracker.update(tiny.quantizer, tiny.quantizer.trace(latent), generator=generator)
    assert figures["codebook_revived"] >= 16
    assert float(book[:16].abs().max()) < 100
    frozen = tracker.update(tiny.quantizer, tiny.quantizer.trace(latent), generator=generator, revive=False)
    assert frozen["codebook_revived"] == 0 and 0 < frozen["codebook_used"] <= 1


def test_tracker_resumes_to_the_bit(tiny, pictures):
    latent = tiny.encode_latent(pictures).detach()
    first, second = CodebookTracker(32, 6, revive_every=2), CodebookTracker(32, 6, revive_every=2)
    generator = torch.Generator().manual_seed(0)
    first.initialise(tiny.quantizer, latent, generator=generator)
    second.load_state_dict(first.state_dict())
    book, state = tiny.quantizer.embedding.weight.clone(), generator.get_state()
    outcomes = []
    for tracker in (first, second):
        with torch.no_grad():
            tiny.quantizer.embedding.weight.copy_(book)
        generator.set_state(state)
        for _ in range(3):
            tracker.update(tiny.quantizer, tiny.quantizer.trace(latent), generator=generator)
        outcomes.append(tiny.quantizer.embedding.weight.clone())
    assert torch.equal(*outcomes)


def test_refusals(tiny, pictures):
    with pytest.raises(ValueError, match="at least two"):
        tokenizer_loss(
            tiny, pictures[:1], codebook=CodebookTracker(32, 6), generator=torch.Generator().manual_seed(0)
        )
    with pytest.raises(ValueError, match="decay"):
        CodebookTracker(32, 6, decay=1.0)
