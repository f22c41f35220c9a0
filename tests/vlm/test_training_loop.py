"""The training loop: budget, rates, averages, accumulation, resume, what a checkpoint belongs to, faults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_fixtures import QUICK, Killed, curve, losses

from vlm.errors import UserError
from vlm.training.loop import train
from vlm.training.optimizers import optimizers_for, rate_at


class LinearTask:
    """Fits a line; dies before the batch `dies_at`."""

    def __init__(self, dies_at: int | None = None, data: str = "of a line") -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)
        self.dies_at, self.data = dies_at, data
        self.exported = False

    def settings_record(self) -> dict:
        return {}

    def depends(self) -> dict[str, str]:
        return {"data": self.data}

    def hidden_matrices(self) -> list[nn.Parameter]:
        return [self.module.weight]

    def batches(self, start: int, batch_size: int, rank: int, world: int) -> Iterator[Tensor]:
        for number in itertools.count(start):
            if number == self.dies_at:
                raise Killed
            yield torch.randn(batch_size, 4, generator=torch.Generator().manual_seed(number * world + rank))

    def loss(
        self, module: nn.Module, batch: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(len(batch), 1, generator=generator)
        loss = (module(batch) - batch.sum(1, keepdim=True) - 0.1 * noise).square().mean()
        return loss, {"loss": float(loss.detach())}

    def validate(self, module: nn.Module, folder: Path, step: int) -> dict[str, float]:
        return {"weight": float(module.weight.detach().sum())}

    def export(self, module: nn.Module, folder: Path) -> None:
        self.exported = True


def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path):
    settings = replace(QUICK, save_minutes=0.0)
    whole = train(LinearTask(), settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(LinearTask(dies_at=4), settings, tmp_path / "killed")
    resumed = train(LinearTask(), settings, tmp_path / "killed")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 6
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_kill_between_two_checkpoints_leaves_no_line_twice_and_none_out(tmp_path):
    settings = replace(QUICK, steps=12, log_every=3, validate_every=4, accumulate=2, save_minutes=0.0)
    train(LinearTask(), settings, tmp_path / "whole")
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(LinearTask(dies_at=8), settings, folder)
    kept = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(Killed):
        train(LinearTask(dies_at=16), settings, folder)
    assert [step for step, _ in curve(folder)] == [3, 6]
    # As if nothing had been saved after step 4, and the last line had been cut in half.
    (folder / "checkpoint.pt").write_bytes(kept)
    with open(folder / "curve.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    train(LinearTask(), settings, folder)
    assert losses(folder) == losses(tmp_path / "whole")
    assert [step for step, _ in curve(folder)] == [3, 6, 9, 12]
    assert curve(folder, "validation", "weight") == curve(tmp_path / "whole", "validation", "weight")


def test_a_line_of_the_curve_is_the_mean_of_all_its_batches(tmp_path):
    settings = replace(QUICK, steps=4, accumulate=2, learning_rate=0.0)
    train(LinearTask(), replace(settings, log_every=4), tmp_path / "long")
    # At rate 0 a batch's loss does not depend on how many go before.
    task = LinearTask()
    each = [
        float(task.loss(task.module, batch, noise(step, part), 0.0)[0].detach())
        for (step, part), batch in zip(itertools.product(range(4), range(2)), task.batches(0, 2, 0, 1), strict=False)
    ]
    assert curve(tmp_path / "long") == [(4, pytest.approx(sum(each) / 8, rel=1e-4))]


def noise(step: int, part: int) -> torch.Generator:
    """The generator of a batch in a run with seed 0 and one process."""
    return torch.Generator().manual_seed(hash((0, step, part, 0)) & 0x7FFFFFFFFFFF)


def test_the_weights_that_are_returned_are_the_average_of_those_that_were_trained(tmp_path):
    trained = []

    class Watched(LinearTask):
        def loss(self, module, batch, generator, progress):
            trained.append(module.weight.detach().clone())
            return super().loss(module, batch, generator, progress)

    task = Watched()
    settings = replace(QUICK, steps=8, learning_rate=0.1, average=0.5)
    averaged = train(task, settings, tmp_path / "averaged").weight
    after = [*trained[1:], task.module.weight.detach()]
    expected = after[0]
    for count, weight in enumerate(after[1:], start=1):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(averaged, expected, atol=1e-6) and not torch.allclose(averaged, after[-1], atol=1e-3)
    last = Watched()
    assert torch.equal(train(last, replace(settings, average=0.0), tmp_path / "last").weight, last.module.weight)


def test_a_checkpoint_of_something_else_is_refused_before_a_step_and_kept(tmp_path):
    train(LinearTask(), QUICK, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    longer = replace(QUICK, steps=9)
    with pytest.raises(UserError, match="made with another data than"):
        train(LinearTask(data="of a circle"), longer, tmp_path)
    with pytest.raises(UserError, match="made with another optimizer than"):
        train(LinearTask(), replace(longer, optimizer="muon"), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [step for step, _ in curve(tmp_path)] == list(range(1, 7))
    # One from before checkpoints said so is taken.
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["depends"], state["curve"], state["earlier"]
    torch.save(state, tmp_path / "checkpoint.pt")
    train(LinearTask(data="of a circle"), longer, tmp_path)
    assert [step for step, _ in curve(tmp_path)] == list(range(1, 10))


def test_a_weight_that_is_named_twice_is_moved_once():
    moved = []
    for times in (1, 2):
        weight = nn.Parameter(torch.eye(4))
        optimizers = optimizers_for([weight], [weight] * times, replace(QUICK, optimizer="muon"))
        weight.grad = torch.arange(16.0).view(4, 4)
        for optimizer in optimizers:
            optimizer.step()
        moved.append(weight.detach() - torch.eye(4))
    assert torch.equal(*moved) and moved[0].abs().max() > 0


def test_accumulation_takes_as_many_batches_per_step(tmp_path):
    task = LinearTask(dies_at=12)
    train(task, replace(QUICK, accumulate=2), tmp_path)
    assert task.exported
    with pytest.raises(Killed):
        train(LinearTask(dies_at=11), replace(QUICK, accumulate=2), tmp_path / "short")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    settings = replace(QUICK, save_minutes=0.0)

    class Poisoned(LinearTask):
        def loss(self, module, batch, generator, progress):
            loss, metrics = super().loss(module, batch, generator, progress)
            return (loss * float("nan"), metrics) if progress >= 0.5 else (loss, metrics)

    with pytest.raises(RuntimeError, match="not finite at step 3; the last checkpoint is kept in"):
        train(Poisoned(), settings, tmp_path)
    with pytest.raises(RuntimeError, match="not finite at step 3; no checkpoint is there yet"):
        train(Poisoned(), QUICK, tmp_path / "unsaved")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    assert torch.isfinite(state["module"]["weight"]).all()


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    train(LinearTask(), QUICK, tmp_path)
    with pytest.raises(ValueError, match="resume it, or choose another folder"):
        train(LinearTask(), QUICK, tmp_path, resume=False)


def test_rate_warms_up_and_falls():
    settings = replace(QUICK, warmup=10, final_rate=0.1)
    assert rate_at(settings, 0, 0.0) == pytest.approx(1e-4)
    assert rate_at(settings, 50, 0.0) == pytest.approx(1e-3)
    assert rate_at(settings, 50, 0.5) == pytest.approx(0.55e-3)
    assert rate_at(settings, 50, 1.0) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"steps": -5, "minutes": 1.0}, {"batch_size": 0}, {"precision": "fp8"}, {"device": "tpu"},
        {"optimizer": "sgd"}, {"average": -1.0}, {"average": 1.0}, {"betas": (1.5, 0.9)}, {"betas": (0.9,)},
        {"seed": -1},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="train"):
        replace(QUICK, **wrong)


def test_muon_takes_the_hidden_matrices_and_resumes_exactly(tmp_path):
    settings = replace(QUICK, optimizer="muon", save_minutes=0.0)
    whole = train(LinearTask(), settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(LinearTask(dies_at=3), settings, tmp_path / "killed")
    resumed = train(LinearTask(), settings, tmp_path / "killed")
    assert torch.equal(whole.weight, resumed.weight)
    plain = train(LinearTask(), QUICK, tmp_path / "plain")
    assert not torch.equal(whole.weight, plain.weight)
    state = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    assert [len(one["state"]) for one in state["optimizers"]] == [1, 1]  # the bias, the matrix
