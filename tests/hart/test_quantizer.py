"""The quantiser's own laws: exactness of the hybrid path, shared convolutions, precision, refusals."""

from __future__ import annotations

import pytest
import torch

from hart.quantizer import MultiScaleQuantizer, shared_convolution_index
from hart.schedule import ScaleSchedule
from hart.tokens import HybridTokens


@pytest.fixture
def quantizer() -> MultiScaleQuantizer:
    torch.manual_seed(0)
    return MultiScaleQuantizer(32, 4, ScaleSchedule((1, 2, 3, 4)), shared_convs=4)


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def test_codes_plus_residual_are_the_latent(quantizer, latent):
    tokens = quantizer.encode(latent)
    torch.testing.assert_close(quantizer.latent(tokens), latent, atol=1e-5, rtol=0)
    discrete = quantizer.latent(tokens, residual=False)
    assert not torch.allclose(discrete, latent, atol=1e-2)


def test_fewer_scales_are_the_running_sum_without_residual(quantizer, latent):
    tokens = quantizer.encode(latent)
    f_hat = quantizer.zeros(2)
    for scale, codes in enumerate(tokens.codes):
        f_hat = quantizer.accumulate(f_hat, codes, scale)
        expected = f_hat if scale < 3 else latent
        torch.testing.assert_close(quantizer.latent(tokens, scales=scale + 1), expected, atol=1e-5, rtol=0)


def test_teacher_inputs_are_what_generation_sees(quantizer, latent):
    codes = quantizer.encode(latent).codes
    inputs = quantizer.teacher_inputs(codes)
    f_hat, start = quantizer.zeros(2), 0
    for scale in range(1, 4):
        f_hat = quantizer.accumulate(f_hat, codes[scale - 1], scale - 1)
        rows = quantizer.scale_input(f_hat, scale)
        assert torch.equal(inputs[:, start : start + rows.shape[1]], rows)
        start += rows.shape[1]
    assert start == inputs.shape[1] == quantizer.schedule.total - 1


def test_hybrid_and_discrete_paths_differ_at_the_last_scale_only(quantizer, latent):
    hybrid, discrete = quantizer.trace(latent), quantizer.trace(latent, hybrid=False)
    for scale in range(3):
        assert torch.equal(hybrid.accumulated[scale], discrete.accumulated[scale])
    assert not torch.equal(hybrid.accumulated[3], discrete.accumulated[3])


def test_nearest_is_the_smallest_distance(quantizer):
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    expected = torch.cdist(rows.double(), quantizer.embedding.weight.double()).argmin(1)
    assert torch.equal(quantizer.nearest(rows), expected)


def test_shared_convolution_of_every_scale():
    assert [shared_convolution_index(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [shared_convolution_index(k, 6, 1) for k in range(6)] == [0] * 6
    # A tie between two ticks goes to the higher index.
    assert shared_convolution_index(1, 3, 2) == 1


def test_codes_do_not_depend_on_autocast_or_gradient(quantizer, latent):
    plain = quantizer.encode(latent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer.encode(latent)
        traced = quantizer.trace(latent.requires_grad_())
    assert torch.equal(plain.flat_codes(), cast.flat_codes())
    assert torch.equal(plain.residual, cast.residual) and cast.residual.dtype == torch.float32
    assert traced.accumulated[-1].dtype == torch.float32 and not traced.residual.requires_grad


def test_refusals_name_what_was_expected(quantizer, latent):
    with pytest.raises(ValueError, match=r"\(B, 4, 4, 4\), got"):
        quantizer.encode(latent[:, :3])
    tokens = quantizer.encode(latent)
    for scales in (0, 5):
        with pytest.raises(ValueError, match=r"1\.\.4"):
            quantizer.latent(tokens, scales=scales)
    with pytest.raises(ValueError, match="scale 1 expects"):
        quantizer.accumulate(quantizer.zeros(2), tokens.codes[2], 1)
    with pytest.raises(ValueError, match="codes of 4 scales"):
        quantizer.teacher_inputs(tokens.codes[:2])
    with pytest.raises(ValueError, match="got 3"):
        quantizer.latent(HybridTokens(tokens.codes[:3], torch.zeros(2, 9, 4)))
    with pytest.raises(ValueError, match="positive"):
        MultiScaleQuantizer(0, 4, ScaleSchedule((1,)))


def test_a_single_scale_has_no_teacher_inputs():
    single = MultiScaleQuantizer(8, 4, ScaleSchedule((2,)), shared_convs=1)
    codes = single.encode(torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))).codes
    assert single.teacher_inputs(codes).shape == (2, 0, 4)


def test_rests_are_what_the_codes_are_nearest_to(quantizer, latent):
    trace = quantizer.trace(latent)
    tokens = quantizer.encode(latent)
    rests = quantizer.rests(tokens)
    torch.testing.assert_close(rests, torch.cat(trace.rests, dim=1), atol=1e-5, rtol=0)
    assert torch.equal(quantizer.nearest(rests), torch.cat(tokens.codes, dim=1))


def test_closeness_ranks_codes_by_distance_and_sharpens_with_a_low_temperature(quantizer):
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    soft, sharp = quantizer.closeness(rows, 1.0), quantizer.closeness(rows, 1e-4)
    torch.testing.assert_close(soft.sum(-1), torch.ones(50))
    distance = torch.cdist(rows, quantizer.embedding.weight)
    assert torch.equal(soft.argsort(-1, descending=True)[:, :3], distance.argsort(-1)[:, :3])
    ratio = soft[:, 0] / soft[:, 1]
    expected = (distance[:, 1].square() - distance[:, 0].square()).exp()
    torch.testing.assert_close(ratio, expected, rtol=1e-4, atol=0)
    assert torch.equal(sharp.argmax(-1), quantizer.nearest(rows))
    assert float((sharp.amax(-1) > 0.99).float().mean()) > 0.9
