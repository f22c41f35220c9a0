"""Schedules and the token container: row ranges, round trips, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hart.schedule import ScaleSchedule
from hart.tokens import HybridTokens

sides = st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True).map(sorted)


@given(sides)
def test_rows_are_partitioned_by_scale(values):
    schedule = ScaleSchedule(values)
    owners = schedule.scale_of_row()
    assert len(owners) == schedule.total == sum(side**2 for side in values)
    for scale, area in enumerate(schedule.areas):
        rows = owners[schedule.slice(scale)]
        assert len(rows) == area and bool((rows == scale).all())


@pytest.mark.parametrize("values", [(), (0, 1), (2, 2), (3, 1), (-1,)])
def test_schedule_refuses_sides_that_do_not_grow(values):
    with pytest.raises(ValueError, match="growing"):
        ScaleSchedule(values)


def test_slice_refuses_a_scale_outside():
    with pytest.raises(ValueError, match=r"0\.\.1, got 2"):
        ScaleSchedule((1, 2)).slice(2)


def make(batch: int = 3) -> tuple[HybridTokens, ScaleSchedule]:
    schedule = ScaleSchedule((1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    codes = tuple(torch.randint(9, (batch, area), generator=generator) for area in schedule.areas)
    return HybridTokens(codes, torch.randn(batch, 9, 4, generator=generator)), schedule


def test_flat_round_trip_and_joining():
    tokens, schedule = make()
    again = HybridTokens.from_flat(tokens.flat_codes(), tokens.residual, schedule)
    assert all(torch.equal(a, b) for a, b in zip(tokens.codes, again.codes, strict=True))
    joined = HybridTokens.cat([tokens[:1], tokens[[1, 2]]])
    assert len(joined) == 3
    assert torch.equal(joined.flat_codes(), tokens.flat_codes())
    assert torch.equal(joined.residual, tokens.residual)
    assert tokens.to(dtype=torch.float16).residual.dtype == torch.float16


def test_tokens_refuse_what_does_not_fit():
    tokens, schedule = make()
    with pytest.raises(ValueError, match="expected flat codes"):
        HybridTokens.from_flat(tokens.flat_codes()[:, 1:], tokens.residual, schedule)
    with pytest.raises(ValueError, match="residual"):
        HybridTokens(tokens.codes, tokens.residual[:, :4])
    with pytest.raises(ValueError, match="list of indices"):
        tokens[0]
    with pytest.raises(ValueError, match="got none"):
        HybridTokens.cat([])
