"""The tokenizer's and the model's training task on tiny sizes: what they learn from, write, resume and refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from training_fixtures import QUICK, TINY, Killed, curve, losses

import vlm.flatpack.build as build
import vlm.flatpack.dialogue as dialogue
import vlm.flatpack.render as render
import vlm.training.batches as training_batches
import vlm.training.conversations as conversations
import vlm.training.tokenizer as training_tokenizer
from vlm.bundle import fingerprint
from vlm.card import write_card
from vlm.checksums import verify_checksums
from vlm.errors import UserError
from vlm.flatpack.build import stages
from vlm.flatpack.product import FAMILIES, Product, sample_product
from vlm.settings import load_settings, packaged_config
from vlm.training.batches import WIDER, MixSettings
from vlm.training.conversations import KINDS, conversation_sample
from vlm.training.loop import read_runs, train
from vlm.training.model import ModelSettings, ModelTask, TowerSettings
from vlm.training.tokenizer import TokenizerSettings, TokenizerTask, load_tokenizer, picture, save_tokenizer


@pytest.mark.parametrize(
    "kind, wrong, told",
    [
        (TokenizerSettings, "other_styles=-3", "other_styles"),
        (TokenizerSettings, "other_shapes=7", "other_shapes"),
        (TokenizerSettings, "more_of=piano", "more_of is 'piano', expected one of stool"),
        (TokenizerSettings, "more=-1", "more is a share"),
        (TokenizerSettings, "workers=-1", "workers"),
        (TokenizerSettings, "weights.discrete_share=7", "discrete_share"),
        (TokenizerSettings, "weights.edge=-1", "edge"),
        (TokenizerSettings, "train.batch_size=1", "batch_size is 1, expected at least 2"),
        (ModelSettings, "code_softness=-0.1", "code_softness"),
        (ModelSettings, "coarse_emphasis=1.5", "coarse_emphasis"),
        (ModelSettings, "guidance=-1", "guidance"),
        (ModelSettings, "text_weight=-1", "text_weight"),
        (ModelSettings, "draft_spans=-1", "draft_spans"),
        (ModelSettings, "train.average=-1", "train.average"),
    ],
)
def test_settings_that_would_ruin_a_run_are_refused_before_it(kind, wrong, told):
    name = "tokenizer" if kind is TokenizerSettings else "model"
    load_settings(packaged_config(name), kind)
    with pytest.raises(UserError, match=told):
        load_settings(packaged_config(name), kind, [wrong])


def test_training_pictures_depend_on_their_number_alone():
    assert picture(7, 128, 0.5, 0).tobytes() == picture(7, 128, 0.5, 0).tobytes()
    assert picture(7, 128, 0.5, 0).tobytes() != picture(8, 128, 0.5, 0).tobytes()


def test_one_family_can_be_shown_more_often(monkeypatch):
    monkeypatch.setattr(training_tokenizer, "draw", lambda shown, size, style: None)
    real = sample_product
    made = []

    def watched(rng, split, family=None):
        made.append(real(rng, split, family))
        return made[-1]

    monkeypatch.setattr(training_tokenizer, "sample_product", watched)
    for number in range(200):
        picture(number, 32, 0.0, 5, more_of="bookcase", more=0.5)
    assert 80 < sum(product.family == "bookcase" for product in made) < 140
    assert len({product.family for product in made}) == len(FAMILIES)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_what_is_learnt_from_and_what_is_held_out_have_no_product_in_common(split, monkeypatch):
    """Every product that a picture is drawn of or that a guide, a change or an answer is about."""
    seen: list[Product] = []
    real = stages
    for module in (build, dialogue, conversations, training_tokenizer, render):
        monkeypatch.setattr(module, "stages", lambda product: seen.append(product) or real(product))
    for kind in KINDS:
        for number in range(60):
            conversation_sample(number, 32, 5, split, kind)
    for number in range(40):
        picture(number, 32, 0.3, 5, split)
    assert len(seen) > 500 and len({product.family for product in seen}) == len(FAMILIES)
    assert {product.held_out for product in seen} == {split == "held_out"}


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
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "whole" / "bundle").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"] == (tmp_path / "whole" / "curve.jsonl").stat().st_mode

    # Over a tokenizer whose codes have changed since, more steps would be for nothing; its decoder alone may change.
    tokenizer = load_tokenizer(tiny_tokenizer)
    longer = replace(settings, tokenizer=str(tmp_path / "other"), train=replace(settings.train, steps=5))
    (tmp_path / "other").mkdir()
    for part in (tokenizer.decoder, tokenizer.encoder):
        next(part.parameters()).data.mul_(1.5)
        save_tokenizer(tokenizer, tokenizer.config, tmp_path / "other")
        if part is tokenizer.decoder:
            train(quick(ModelTask(longer)), longer.train, tmp_path / "whole")
    with pytest.raises(UserError, match="made with another image tokenizer than"):
        train(quick(ModelTask(longer)), replace(longer.train, steps=6), tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 5


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
