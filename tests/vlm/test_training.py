"""The training loop: resume, budget, faults; the tokenizer's and the model's task on tiny sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vlm.training.batches as training_batches
from hart.tokenizer import TokenizerConfig
from vlm.bundle import fingerprint
from vlm.card import write_card
from vlm.checksums import verify_checksums
from vlm.errors import UserError
from vlm.training.batches import WIDER, MixSettings
from vlm.training.conversations import world_text
from vlm.training.loop import TrainSettings, rate_at, read_runs, train
from vlm.training.model import ModelSettings, ModelTask, TowerSettings
from vlm.training.tokenizer import TokenizerSettings, TokenizerTask, load_tokenizer, picture

TINY = TokenizerConfig(
    channels=8,
    vocab_size=64,
    encoder_widths=(16, 16, 32),
    decoder_widths=(16, 16, 32),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    groups=8,
)
QUICK = TrainSettings(
    steps=6, batch_size=2, learning_rate=1e-3, warmup=2, precision="no", device="cpu", log_every=1, validate_every=100
)


class Killed(Exception):
    """Stands for a process that dies."""


class LinearTask:
    """Fits a line; dies before the batch `dies_at`."""

    def __init__(self, dies_at: int | None = None, poison: int | None = None) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)
        self.dies_at, self.poison = dies_at, poison
        self.exported = False

    def settings_record(self) -> dict:
        return {}

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


def curve(folder: Path, kind: str = "train", key: str = "loss") -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [(row["step"], row[key]) for row in rows if row["kind"] == kind]


def losses(folder: Path) -> list[dict]:
    """The rows of training without what a clock says."""
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    timed = ("minutes", "samples_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows if row["kind"] == "train"]


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

    with pytest.raises(RuntimeError, match="not finite at step 3"):
        train(Poisoned(), settings, tmp_path)
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
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"precision": "fp8"}, {"device": "tpu"}, {"optimizer": "sgd"}]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="train"):
        replace(QUICK, **wrong)


def test_training_pictures_depend_on_their_number_alone_and_never_on_the_held_out_split():
    assert picture(7, 128, 0.5, 0).tobytes() == picture(7, 128, 0.5, 0).tobytes()
    assert picture(7, 128, 0.5, 0).tobytes() != picture(8, 128, 0.5, 0).tobytes()
    assert len(world_text(3)) > 10


@pytest.fixture(scope="module")
def tiny_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    settings = TokenizerSettings(tokenizer=TINY, train=replace(QUICK, steps=3), workers=0)
    train(TokenizerTask(settings), settings.train, folder)
    return folder


def test_the_tokenizer_trains_exports_and_loads(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    assert tokenizer.config.residual_scale > 0
    assert (tiny_tokenizer / "samples.png").exists()
    figures = curve(tiny_tokenizer, "validation", "psnr_hybrid")
    assert figures[-1][0] == 3
    tokens = tokenizer.encode(torch.zeros(1, 3, 128, 128))
    assert tokenizer.decode(tokens).shape == (1, 3, 128, 128)


def test_the_model_trains_over_the_tokenizer_and_resumes_exactly(tiny_tokenizer, tmp_path):
    tower = TowerSettings(width=32, hidden=64, layers=2, heads=2)
    settings = ModelSettings(
        tokenizer=str(tiny_tokenizer),
        vocabulary=512,
        tower=tower,
        residual_width=32,
        residual_depth=1,
        workers=0,
        train=replace(QUICK, steps=4, save_minutes=0.0),
    )

    def quick(task: ModelTask) -> ModelTask:
        task.validate = lambda module, folder, step: {}
        return task

    class Dying(ModelTask):
        def loss(self, module, batch, generator, progress):
            if progress >= 0.5:
                raise Killed
            return super().loss(module, batch, generator, progress)

    train(quick(ModelTask(settings)), settings.train, tmp_path / "whole")
    with pytest.raises(Killed):
        train(quick(Dying(settings)), settings.train, tmp_path / "killed")
    train(quick(ModelTask(settings)), settings.train, tmp_path / "killed")
    killed, whole = (losses(tmp_path / name) for name in ("killed", "whole"))
    assert killed == whole and len(whole) == 4
    assert any("code_guide" in row for row in whole) and any("code_guide" not in row for row in whole)
    assert (tmp_path / "whole" / "bundle" / "model.safetensors").exists()


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


def test_a_run_can_start_from_the_weights_of_a_bundle(tiny_tokenizer, tmp_path):
    tower = TowerSettings(width=32, hidden=64, layers=2, heads=2)
    settings = ModelSettings(
        tokenizer=str(tiny_tokenizer), vocabulary=512, tower=tower, residual_width=32, residual_depth=1, train=QUICK
    )
    first = ModelTask(settings)
    first.export(first.module, tmp_path)
    task = ModelTask(replace(settings, initial=str(tmp_path / "bundle"), coarse_emphasis=0.25))
    assert task.module.config.coarse_emphasis == 0.25
    assert task.processor.tokenizer.get_vocab() == first.processor.tokenizer.get_vocab()
    for name, value in first.module.state_dict().items():
        if not name.startswith("image_tokenizer"):
            assert torch.equal(value.bfloat16().float(), task.module.state_dict()[name]), name
    assert not any(weight.requires_grad for weight in task.module.image_tokenizer.parameters())
    assert task.hidden_matrices() and all(weight.ndim == 2 for weight in task.hidden_matrices())


def test_a_cached_run_follows_the_same_curve_and_draws_nothing(tiny_tokenizer, tmp_path, monkeypatch):
    tower = TowerSettings(width=32, hidden=64, layers=2, heads=2)
    settings = ModelSettings(
        tokenizer=str(tiny_tokenizer), vocabulary=512, tower=tower, residual_width=32, residual_depth=1, workers=0,
        cache=str(tmp_path / "cache"), train=replace(QUICK, steps=3),
    )

    def quick(task: ModelTask) -> ModelTask:
        task.validate = lambda module, folder, step: {}
        return task

    train(quick(ModelTask(settings)), settings.train, tmp_path / "first")
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 3
    task = ModelTask(settings)
    assert task.held_out_losses(task.module, rounds=1)["text_guide"] > 0
    assert sorted((tmp_path / "cache").rglob("*.safetensors")) == files, "what is held out is no part of it"
    files[1].write_bytes(files[1].read_bytes()[:-10])  # a damaged batch is computed again

    drawn = []
    real = training_batches.conversation_sample
    monkeypatch.setattr(training_batches, "conversation_sample", lambda *a, **k: drawn.append(a) or real(*a, **k))
    train(quick(ModelTask(settings)), settings.train, tmp_path / "second")
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert len(drawn) in {QUICK.batch_size * wider for wider in WIDER.values()}


def test_a_bundle_tells_how_it_was_trained_and_the_card_says_so(tiny_tokenizer, tmp_path):
    tower = TowerSettings(width=32, hidden=64, layers=2, heads=2)
    settings = ModelSettings(
        tokenizer=str(tiny_tokenizer), vocabulary=512, tower=tower, residual_width=32, residual_depth=1, workers=0,
        train=replace(QUICK, steps=2),
    )

    def quick(task: ModelTask) -> ModelTask:
        task.validate = lambda module, folder, step: {}
        return task

    train(quick(ModelTask(settings)), settings.train, tmp_path)
    longer = replace(settings, coarse_emphasis=0.1, train=replace(QUICK, steps=3))
    task = quick(ModelTask(longer))
    train(task, longer.train, tmp_path)
    bundle = tmp_path / "bundle"
    record = json.loads((bundle / "training.json").read_text())
    assert [run["steps"] for run in record["model"]] == [2, 1]
    assert record["model"][1]["settings"]["coarse_emphasis"] == 0.1
    assert record["model"][1]["settings"]["train.steps"] == 3
    assert [run["steps"] for run in record["tokenizer"]] == [3]

    # A spent budget adds nothing; a run from the bundle's weights tells of what they went through.
    train(quick(ModelTask(longer)), longer.train, tmp_path)
    assert json.loads((bundle / "training.json").read_text()) == record
    further = quick(ModelTask(replace(longer, initial=str(bundle), train=replace(QUICK, steps=1))))
    train(further, further.settings.train, tmp_path / "further", earlier=further.earlier_runs())
    told = json.loads((tmp_path / "further" / "bundle" / "training.json").read_text())
    assert told["model"][:2] == record["model"] and [run["steps"] for run in told["model"]] == [2, 1, 1]

    assert verify_checksums(bundle) and not (bundle / "README.md").exists()
    before = fingerprint(bundle)
    card = write_card(task.module, bundle, {"picture.truth": 0.5}, limit=3, seed=7).read_text()
    assert "`picture.truth` | 0.5" in card and "--limit 3 --seed 7" in card and "`coarse_emphasis=0.1`" in card
    assert card.count("| `vlm train model` |") == 2 and card.count("| `vlm train tokenizer` |") == 1
    assert "/" + tmp_path.parts[1] not in card  # no path of the machine that trained it
    assert fingerprint(bundle) == before and verify_checksums(bundle)
    (bundle / "training.json").write_text("[]")
    with pytest.raises(UserError, match="tells of no training"):
        write_card(task.module, bundle, {}, limit=1, seed=0)


@pytest.mark.parametrize("mix", [{"guide": -1}, {"guide": 0, "words": 0, "talk": 0, "chat": 0}])
def test_a_mix_of_nothing_is_refused(mix):
    with pytest.raises(ValueError, match="the mix needs shares"):
        MixSettings(**mix)


def test_a_model_without_a_tokenizer_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="vlm train tokenizer"):
        ModelTask(ModelSettings(tokenizer=str(tmp_path / "none"), train=QUICK))


def test_training_the_decoder_alone_leaves_codes_as_they_are(tiny_tokenizer, tmp_path):
    settings = TokenizerSettings(decoder_of=str(tiny_tokenizer), train=replace(QUICK, steps=2), workers=0)
    task = TokenizerTask(settings)
    train(task, settings.train, tmp_path, earlier=task.earlier_runs())
    assert [run["steps"] for run in read_runs(tmp_path)] == [3, 2]
    before, after = load_tokenizer(tiny_tokenizer).state_dict(), load_tokenizer(tmp_path).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}


def test_a_tokenizer_can_go_on_from_another_or_from_a_bundles(tiny_tokenizer, tmp_path):
    """A step at rate 0 leaves the weights that it starts from: those of a tokenizer's folder, or of a bundle."""
    still = replace(QUICK, steps=1, learning_rate=0.0)
    settings = TokenizerSettings(initial=str(tiny_tokenizer), train=still, workers=0)
    task = TokenizerTask(settings)
    train(task, still, tmp_path / "further", earlier=task.earlier_runs())
    assert [run["steps"] for run in read_runs(tmp_path / "further")] == [3, 1]
    before, after = load_tokenizer(tiny_tokenizer).state_dict(), load_tokenizer(tmp_path / "further").state_dict()
    book = "quantizer.embedding.weight"
    assert all(torch.equal(before[name], after[name]) for name in before if name != book)
    # The codebook follows what it is matched with; one batch must not throw it elsewhere.
    moved = (after[book] - before[book]).square().mean() / before[book].square().mean()
    assert 0 < moved < 0.2

    tower = TowerSettings(width=32, hidden=64, layers=2, heads=2)
    model = ModelTask(
        ModelSettings(
            tokenizer=str(tiny_tokenizer), vocabulary=512, tower=tower, residual_width=32, residual_depth=1, train=QUICK
        )
    )
    model.export(model.module, tmp_path)
    bundled = TokenizerTask(replace(settings, initial=str(tmp_path / "bundle")))
    assert [run["steps"] for run in bundled.earlier_runs()] == [3]
    assert bundled.settings.tokenizer == load_tokenizer(tiny_tokenizer).config
    for name, value in bundled.module.tokenizer.state_dict().items():
        assert torch.equal(value, before[name].bfloat16().float()), name
    with pytest.raises(ValueError, match="not both"):
        replace(settings, decoder_of=str(tiny_tokenizer))
    with pytest.raises(UserError, match="no trained image tokenizer"):
        TokenizerTask(replace(settings, initial=str(tmp_path / "none")))
