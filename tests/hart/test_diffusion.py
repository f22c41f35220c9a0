"""The residual diffusion: schedule arithmetic, learning, guidance, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.diffusion import ResidualHead, residual_loss, sample_residual
from hart.sampler import NoiseSchedule, ResidualSampler


@pytest.fixture
def head() -> ResidualHead:
    torch.manual_seed(0)
    head = ResidualHead(channels=3, condition_width=5, width=32, depth=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


@pytest.fixture
def condition() -> torch.Tensor:
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shortened_schedule_keeps_the_levels_of_the_full_one():
    full, short = NoiseSchedule.full(), NoiseSchedule.shortened(8)
    assert short.numbers == (0, 143, 285, 428, 571, 714, 856, 999)
    np.testing.assert_allclose(short.alphas_bar, full.alphas_bar[list(short.numbers)])
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alphas_bar)
    assert NoiseSchedule.shortened(1000).numbers == full.numbers
    assert np.isfinite(full.log_posterior).all()


def test_corrupt_and_clean_are_inverse():
    schedule = NoiseSchedule.full()
    clean = torch.rand(6, 3, generator=seeded()) * 1.8 - 0.9
    noise = torch.randn(6, 3, generator=seeded(1))
    steps = torch.tensor([0, 1, 50, 300, 600, 900])
    torch.testing.assert_close(
        schedule.clean(schedule.corrupt(clean, steps, noise), steps, noise), clean, atol=1e-4, rtol=0
    )


def test_perfect_noise_prediction_ends_at_the_clean_residual():
    sampler = ResidualSampler(8)
    clean = torch.rand(5, 3, generator=seeded()) * 1.8 - 0.9
    x = sampler.prior(torch.randn(5, 3, generator=seeded(1)))
    for step in sampler.timesteps():
        keep = sampler.schedule.alphas_bar[step]
        noise = (x - keep**0.5 * clean) / (1 - keep) ** 0.5
        x = sampler.step(x, step, noise, torch.zeros_like(x), torch.randn(x.shape, generator=seeded(step)))
    torch.testing.assert_close(x, clean, atol=1e-3, rtol=0)


def test_variational_bound_is_zero_for_the_true_posterior():
    schedule = NoiseSchedule.full()
    clean = torch.rand(4, 3, generator=seeded()) * 1.8 - 0.9
    noise = torch.randn(4, 3, generator=seeded(1))
    steps = torch.tensor([1, 10, 300, 700])
    noisy = schedule.corrupt(clean, steps, noise)
    exact = schedule.variational_bound(clean, noisy, steps, noise, torch.full((4, 3), -1.0))
    torch.testing.assert_close(exact, torch.zeros_like(exact), atol=1e-2, rtol=0)
    worse = schedule.variational_bound(clean, noisy, steps, noise, torch.ones(4, 3))
    assert bool((worse >= exact - 1e-3).all())


def test_learns_a_residual_that_the_condition_tells():
    torch.manual_seed(0)
    head = ResidualHead(channels=2, condition_width=2, width=32, depth=1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    generator = seeded()
    for _ in range(600):
        condition = torch.randn(64, 2, generator=generator)
        loss = residual_loss(head, 0.5 * torch.tanh(condition), condition, generator, repeats=2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    condition = torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).repeat(32, 1)
    sample = sample_residual(head, condition, generator=seeded(5))
    target = 0.5 * torch.tanh(condition)
    assert (sample - target).square().mean() < 0.3 * target.square().mean()


def test_one_seed_one_sample_and_recorded_draws(head, condition):
    first = sample_residual(head, condition, generator=seeded())
    assert first.shape == (2, 4, 3) and first.dtype == torch.float32
    assert torch.equal(first, sample_residual(head, condition, generator=seeded()))
    assert not torch.equal(first, sample_residual(head, condition, generator=seeded(1)))
    generator = seeded()
    noises = [torch.randn(8, 3, generator=generator) for _ in range(9)]
    assert torch.equal(first, sample_residual(head, condition, noises=noises))


def test_guidance_neutral_value_is_zero(head, condition):
    plain = sample_residual(head, condition, generator=seeded())
    other = torch.zeros_like(condition)
    assert torch.equal(plain, sample_residual(head, condition, generator=seeded(), unconditional=other))
    guided = sample_residual(head, condition, generator=seeded(), unconditional=other, guidance=2.0)
    assert not torch.allclose(plain, guided)
    # Two equal branches cancel, whatever the guidance.
    same = sample_residual(head, condition, generator=seeded(), unconditional=condition, guidance=2.0)
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=0)


def test_another_sampler_takes_the_place_of_the_releases(head, condition):
    class Deterministic(ResidualSampler):
        """DDIM: the clean residual is guessed, then noised again by the same noise."""

        def step(self, x, step, noise, fraction, draw):
            steps = torch.full(x.shape[:1], step)
            clean = self.schedule.clean(x, steps, noise)
            return clean if step == 0 else self.schedule.corrupt(clean, steps - 1, noise)

    noises = [torch.randn(8, 3, generator=seeded(i)) for i in range(5)]
    first = sample_residual(head, condition, noises=noises, sampler=Deterministic(4))
    assert first.shape == (2, 4, 3) and first.abs().max() <= 1
    # Only the start matters to it.
    others = [noises[0], *(torch.randn(8, 3, generator=seeded(9)) for _ in range(4))]
    assert torch.equal(first, sample_residual(head, condition, noises=others, sampler=Deterministic(4)))
    assert not torch.allclose(first, sample_residual(head, condition, noises=noises, steps=4))


def test_loss_reaches_the_condition_and_every_weight(head, condition):
    condition.requires_grad_()
    residual_loss(head, torch.zeros(2, 4, 3), condition, seeded()).backward()
    assert condition.grad is not None and condition.grad.abs().sum() > 0
    assert all(p.grad is not None for p in head.parameters())


def test_refusals(head, condition):
    with pytest.raises(ValueError, match="exactly one"):
        sample_residual(head, condition)
    with pytest.raises(ValueError, match="needs the unconditional"):
        sample_residual(head, condition, generator=seeded(), guidance=1.0)
    with pytest.raises(ValueError, match="ran out"):
        sample_residual(head, condition, noises=[torch.zeros(8, 3)] * 3)
    with pytest.raises(ValueError, match="recorded noise"):
        sample_residual(head, condition, noises=[torch.zeros(4, 3)] * 9)
    with pytest.raises(ValueError, match=r"2\.\.1000, got 1"):
        sample_residual(head, condition, generator=seeded(), steps=1)
    with pytest.raises(ValueError, match=r"\(…, 5\)"):
        sample_residual(head, condition[..., :4], generator=seeded())
    with pytest.raises(ValueError, match="expected targets"):
        residual_loss(head, torch.zeros(2, 4, 2), condition, seeded())
    with pytest.raises(ValueError, match="positive"):
        ResidualHead(0, 5, 8, 1)
