"""The transformer: cached steps equal one full pass, what a row sees, switches, refusals."""

from __future__ import annotations

import pytest
import torch
from hart_fixtures import SIDES, TINY_TOKENIZER, tiny_transformer

from hart.presets import random_models, random_prompts
from hart.schedule import ScaleSchedule
from hart.transformer import Context, HartTransformer, ScaleSteps

CLOSE = {"atol": 1e-4, "rtol": 0.0}
SWITCHES = [
    {},
    {"modulation": "shared", "level_embedding": "table", "query_key_norm": False},
    {"modulation": "per_layer", "pooling": "max", "context_norm": False},
    {"modulation": "per_layer", "pooling": "avg", "mlp_ratio": 8.0},
]


def make(**changes) -> tuple[HartTransformer, torch.nn.Module]:
    models = random_models(tiny_transformer(**changes), TINY_TOKENIZER, seed=1)
    return models.transformer, models.tokenizer.quantizer


def codes(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(24, (batch, side * side), generator=generator) for side in SIDES)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
@torch.no_grad()
def test_cached_steps_equal_one_full_pass(changes, backend):
    model, quantizer = make(**changes)
    model.set_backend(backend)
    context = random_prompts(model.config, 2).context
    known = codes()
    logits, last = model(context, quantizer.teacher_inputs(known))
    steps, f_hat = ScaleSteps(model, context), quantizer.zeros(2)
    for scale in range(len(SIDES)):
        hidden = steps.step(None if scale == 0 else quantizer.scale_input(f_hat, scale))
        expected = logits[:, model.schedule.slice(scale)]
        torch.testing.assert_close(steps.logits(hidden), expected, **CLOSE)
        f_hat = quantizer.accumulate(f_hat, known[scale], scale)
    torch.testing.assert_close(hidden, last, **CLOSE)


@torch.no_grad()
def test_backends_agree():
    model, quantizer = make()
    context, inputs = random_prompts(model.config, 2).context, quantizer.teacher_inputs(codes())
    sdpa, _ = model(context, inputs)
    model.set_backend("eager")
    torch.testing.assert_close(model(context, inputs)[0], sdpa, **CLOSE)
    with pytest.raises(ValueError, match="backend must be one of"):
        model.set_backend("flash")


@torch.no_grad()
def test_a_scale_sees_itself_and_coarser_ones_only():
    model, quantizer = make()
    context = random_prompts(model.config, 1).context
    inputs = quantizer.teacher_inputs(codes(1))
    before, _ = model(context, inputs)
    # The last row of scale 2: rows 1 … 4 are scale 1, 5 … 13 scale 2 (of 30 rows with scale 0).
    inputs[:, 12] += 1.0
    moved = (model(context, inputs)[0] - before).abs().amax(dim=(0, 2)) > 1e-6
    assert not moved[:5].any() and bool(moved[5:].all())


@torch.no_grad()
def test_padding_is_seen_but_not_averaged():
    for pooling, averaged in (("max", False), ("avg", True)):
        model, _ = make(modulation="per_layer", pooling=pooling)
        context = random_prompts(model.config, 1).context
        hidden = context.hidden.clone()
        hidden[:, -1] += 1.0
        changed = Context(hidden, context.mask, context.positions)
        assert context.mask[0, -1] == 0
        first, second = (ScaleSteps(model, c) for c in (context, changed))
        assert not torch.allclose(first.step(), second.step())
        gates = [s.given.layers[0].gate_mlp for s in (first, second)]
        assert torch.equal(*gates) == averaged


@torch.no_grad()
def test_the_unconditional_half_is_empty_and_does_not_touch_the_other():
    model, quantizer = make(modulation="shared")
    context = random_prompts(model.config, 2).context
    both = context.with_unconditional()
    assert both.mask[2:].sum(1).tolist() == [1, 1] and both.mask[2:, 0].tolist() == [1, 1]
    assert not both.hidden[2:].any() and not both.positions[2:].any()
    alone, together = ScaleSteps(model, context).step(), ScaleSteps(model, both).step()
    torch.testing.assert_close(together[:2], alone, **CLOSE)


@torch.no_grad()
def test_prompts_follow_the_model_to_its_device():
    with torch.device("meta"):
        model = HartTransformer(tiny_transformer(modulation="per_layer", pooling="avg"))
    steps = ScaleSteps(model, random_prompts(model.config, 2).context.with_unconditional())
    logits = [steps.logits(steps.step(i)) for i in (None, torch.empty(4, 4, model.config.channels, device="meta"))]
    assert all(values.is_meta for values in logits) and logits[1].shape == (4, 4, 24)


@torch.no_grad()
def test_another_schedule_moves_positions_not_weights():
    model, quantizer = make()
    small = ScaleSchedule((1, 2, 3))
    other = quantizer.with_schedule(small)
    assert other.embedding is quantizer.embedding and other.zeros(1).shape[-1] == 3
    steps = ScaleSteps(model, random_prompts(model.config, 1).context, small)
    f_hat = other.accumulate(other.zeros(1), codes(1)[0], 0)
    steps.step()
    assert steps.step(other.scale_input(f_hat, 1)).shape == (1, 4, 32)
    assert steps.caches[0].keys.shape[2] == model.config.context_tokens + 4 + 9


@torch.no_grad()
def test_half_precision_stays_near():
    models = random_models(tiny_transformer(), TINY_TOKENIZER, seed=1)
    inputs = models.tokenizer.quantizer.teacher_inputs(codes())
    context = random_prompts(models.transformer.config, 2).context
    exact, _ = models.transformer(context, inputs)
    rough, hidden = models.transformer.to(torch.bfloat16)(context, inputs)
    assert rough.dtype == torch.float32 and hidden.dtype == torch.bfloat16
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_refusals():
    model, _ = make()
    prompts = random_prompts(tiny_transformer(context_width=8), 1).context
    with pytest.raises(ValueError, match=r"\(B, 5, 16\), got \(1, 5, 8\)"):
        model.condition(prompts)
    steps = ScaleSteps(model, random_prompts(model.config, 1).context)
    steps.step()
    with pytest.raises(ValueError, match="scale 1 needs"):
        steps.step()
    with pytest.raises(ValueError, match="a mask"):
        Context(torch.zeros(1, 5, 16), torch.zeros(1, 4), torch.zeros(1, 4))
    bad = [
        ({"modulation": "film"}, "modulation must be one of"), ({"heads": 3}, "multiple of 4"),
        ({"sides": (2, 3)}, "begin with 1"), ({"residual_steps": 1}, "at least 2"), ({"depth": 0}, "positive"),
    ]  # fmt: skip
    for changes, message in bad:
        with pytest.raises(ValueError, match=message):
            tiny_transformer(**changes)
