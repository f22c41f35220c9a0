"""Training adapters: what changes and what must not, resume, early stop, faults, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from adapter_fixtures import BASE, QUICK, kept, manual, model, processor, streams

from adapters.evaluation import compare, guides_of, table
from adapters.folder import World, load_adapter
from adapters.held_out import held_out_losses
from adapters.importers import load_examples
from adapters.lora import LoraSettings, apply
from adapters.material import Material
from adapters.training import About, AdaptSettings, AdaptTask, run_folder, train_adapter
from vlm.batch import collate
from vlm.errors import UserError
from vlm.session import StreamSession

SCRIPT = Path(__file__).with_name("two_adapters.py")
ABOUT = About(BASE, "vlm adapt train data -o out", World(name="Stands", colours=("mauve",)), {"guides": 6}, ("x", "y"))


@pytest.fixture(scope="module")
def material():
    all_of_them = streams(model(), 8)
    return Material(all_of_them[:6], all_of_them[6:])


def adapt(
    out: Path, material: Material, places=("text", "image", "residual"), resume=True, dropout=0.0, rehearse=0.0,
    checkpointing=False, **train,
):  # fmt: skip
    settings = AdaptSettings(
        lora=LoraSettings(places, rank=2, dropout=dropout), rehearse=rehearse, checkpointing=checkpointing,
        train=replace(QUICK, **train),
    )  # fmt: skip
    built = model()
    train_adapter(built, processor(built), material, settings, out, ABOUT, resume=resume)
    return built, load_adapter(out)


def added(adapter, built=None):
    return apply(built or model(), [(adapter.settings, adapter.tensors, 1.0)])


def plain_state(built):
    """The weights of the base inside a model with adapters in it."""
    return {
        name.replace(".base_layer", ""): value for name, value in built.state_dict().items() if "lora_" not in name
    }


def test_training_lowers_the_loss_moves_the_adapter_alone_and_tells_what_it_did(tmp_path, material):
    before = kept(model())
    built, adapter = adapt(tmp_path / "a", material, steps=12, validate_every=6)
    assert all(torch.equal(value, before[name]) for name, value in plain_state(built).items())
    assert all(value.abs().sum() > 0 for value in adapter.tensors.values())
    gained = held_out_losses(added(adapter), material.train)["total"]
    assert gained < held_out_losses(model(), material.train)["total"]
    manifest = adapter.manifest
    assert (manifest.base, manifest.held_out, manifest.world.colours) == (BASE, ("x", "y"), ("mauve",))
    assert manifest.figures["held_out.total"] == pytest.approx(
        held_out_losses(added(adapter), material.held_out)["total"], abs=1e-4
    )
    assert {"held_out.text", "held_out.code", "held_out.residual"} <= set(manifest.figures)
    assert (run_folder(tmp_path / "a") / "samples.png").is_file()


def test_text_alone_leaves_image_tower_and_residual_head_as_they_were(tmp_path, material):
    trained, adapter = adapt(tmp_path / "a", material, ("text",))
    assert all(name.startswith("text.") for name in adapter.tensors)
    before = model().state_dict()
    for name, value in trained.state_dict().items():
        if name.startswith(("image.", "residual_head.", "code_head.", "picture_projection.")):
            assert torch.equal(value, before[name]), name


def test_image_alone_leaves_the_text_of_picture_free_streams_as_it_was(tmp_path, material):
    _, adapter = adapt(tmp_path / "a", material, ("image",))
    words = processor(model()).encode([{"role": "user", "content": "How do I build a stand?"}])
    changed = added(adapter)
    assert torch.equal(StreamSession(changed).feed(words), StreamSession(model()).feed(words))
    with torch.no_grad():
        batch = collate([words], changed.config, generator=torch.Generator())
        assert torch.equal(changed.stream_pass(batch).text_logits, model().stream_pass(batch).text_logits)
        drawn = collate(material.held_out, changed.config, generator=torch.Generator())
        assert not torch.equal(changed.stream_pass(drawn).code_logits, model().stream_pass(drawn).code_logits)


def adapt_without_chance(out, material, **train):
    """What a step learns depends on its examples alone: no picture is drawn, none is left out, by chance."""
    built = model()
    built.config.unconditional_probability = built.config.residual_weight = 0.0
    settings = AdaptSettings(
        lora=LoraSettings(("text", "image"), rank=2), rehearse=0.0, draft_spans=9,
        train=replace(QUICK, average=0.0, **train),
    )  # fmt: skip
    train_adapter(built, processor(built), material, settings, out, ABOUT)
    return load_adapter(out)


def test_two_batches_of_two_teach_what_one_of_four_does(tmp_path, material):
    whole = adapt_without_chance(tmp_path / "whole", material, batch_size=4)
    parts = adapt_without_chance(tmp_path / "parts", material, batch_size=2, accumulate=2)
    half = adapt_without_chance(tmp_path / "half", material, batch_size=2)
    assert all(torch.allclose(value, parts.tensors[name], atol=1e-3) for name, value in whole.tensors.items())
    assert not all(torch.allclose(value, half.tensors[name], atol=1e-3) for name, value in whole.tensors.items())


@pytest.fixture
def fresh_accelerate():
    """accelerate settles on one precision per process, which a test must neither find nor leave."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield AcceleratorState._reset_state
    AcceleratorState._reset_state(reset_partial_state=True)


def test_mixed_precision_stays_finite_and_near_float32(tmp_path, material, fresh_accelerate):
    exact = adapt_without_chance(tmp_path / "exact", material, steps=8)
    fresh_accelerate()
    mixed = adapt_without_chance(tmp_path / "mixed", material, steps=8, precision="bf16")
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in mixed.tensors.values())
    assert not all(torch.equal(value, mixed.tensors[name]) for name, value in exact.tensors.items())
    untrained = held_out_losses(model(), material.train)["total"]
    gained = [untrained - held_out_losses(added(one), material.train)["total"] for one in (exact, mixed)]
    assert gained[0] > 0 and gained[1] == pytest.approx(gained[0], rel=0.2)


def test_checkpointing_saves_memory_and_changes_nothing_else(tmp_path, material):
    _, plain = adapt(tmp_path / "plain", material, dropout=0.3)
    _, again = adapt(tmp_path / "again", material, dropout=0.3, checkpointing=True)
    assert all(torch.allclose(value, again.tensors[name], atol=1e-5) for name, value in plain.tensors.items())


def test_coarse_codes_count_more_while_an_adapter_learns_and_the_base_keeps_its_own_weighing(tmp_path, material):
    learnt = []
    for emphasis in (0.0, 1.0):
        settings = AdaptSettings(
            LoraSettings(("image",), rank=2), rehearse=0.0, coarse_emphasis=emphasis, train=replace(QUICK, steps=3)
        )
        built = model()
        train_adapter(built, processor(built), material, settings, tmp_path / f"{emphasis}", ABOUT)
        assert built.config.coarse_emphasis == model().config.coarse_emphasis
        adapter = load_adapter(tmp_path / f"{emphasis}")
        # Validation, which chooses and is told of, weighs as the base does.
        figure = held_out_losses(added(adapter), material.held_out)["code"]
        assert adapter.manifest.figures["held_out.code"] == pytest.approx(figure, abs=1e-4)
        learnt.append(adapter.tensors)
    assert any(not torch.equal(value, learnt[1][name]) for name, value in learnt[0].items())
    with pytest.raises(UserError, match=r"coarse_emphasis is 1\.5, expected 0 to 1"):
        AdaptSettings(coarse_emphasis=1.5)


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize(
    ("dies_in", "call", "more"),
    [
        ("loss", 4, {}),
        ("loss", 4, {"dropout": 0.3}),
        ("loss", 8, {"accumulate": 2, "rehearse": 0.5}),
        ("validate", 2, {}),
    ],
)
def test_a_run_that_was_killed_continues_as_if_nothing_had_happened(
    tmp_path, material, monkeypatch, dies_in, call, more
):
    material = replace(material, rehearsal=streams(model(), 2, first=500))
    options = dict(steps=6, validate_every=2, save_minutes=0.0) | more
    _, whole = adapt(tmp_path / "whole", material, **options)
    method, calls = getattr(AdaptTask, dies_in), []

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return method(*arguments)

    monkeypatch.setattr(AdaptTask, dies_in, deadly)
    with pytest.raises(Killed):
        adapt(tmp_path / "killed", material, **options)
    assert not (tmp_path / "killed").exists()
    monkeypatch.setattr(AdaptTask, dies_in, method)
    # Whatever else draws numbers must not matter.
    torch.rand(7)
    _, resumed = adapt(tmp_path / "killed", material, **options)
    assert all(torch.equal(value, whole.tensors[name]) for name, value in resumed.tensors.items())
    assert resumed.manifest.figures == whole.manifest.figures


def test_a_run_of_other_data_or_another_adapter_is_not_continued(tmp_path, material):
    adapt(tmp_path / "a", material, steps=2)
    other = Material(material.train[:5], material.held_out)
    with pytest.raises(UserError, match="a run with another train; take another --out"):
        adapt(tmp_path / "a", other, steps=3)
    with pytest.raises(UserError, match="another lora"):
        adapt(tmp_path / "a", material, ("text",), steps=3)
    adapt(tmp_path / "a", material, steps=3)
    with pytest.raises(UserError, match="holds a run; resume it, take another --out, or remove that folder"):
        adapt(tmp_path / "a", material, steps=4, resume=False)


def test_a_run_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best(tmp_path, material):
    settings = AdaptSettings(
        lora=LoraSettings(("text",), rank=2), rehearse=0.0, patience=2,
        train=replace(QUICK, steps=40, validate_every=1, learning_rate=0.3, average=0.0),
    )  # fmt: skip
    built = model()
    train_adapter(built, processor(built), material, settings, tmp_path / "a", ABOUT)
    history = json.loads((run_folder(tmp_path / "a") / "held_out.json").read_text())
    assert 3 <= len(history) < 40
    best = min(one["total"] for one in history)
    assert [one["total"] for one in history].index(best) == len(history) - 3
    got = held_out_losses(added(load_adapter(tmp_path / "a")), material.held_out)["total"]
    assert got == pytest.approx(best, rel=1e-3)
    (told,) = load_adapter(tmp_path / "a").manifest.record
    assert told["steps"] == len(history) and told["minutes"] >= 0 and "threads" in told["hardware"]
    # Stopped within a minute, it is a run that can be gone on with, and has nothing to add.
    again = model()
    train_adapter(again, processor(again), material, settings, tmp_path / "a", ABOUT)
    assert load_adapter(tmp_path / "a").manifest.record == [told]
    assert json.loads((run_folder(tmp_path / "a") / "held_out.json").read_text()) == history


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path, material, monkeypatch):
    loss, calls = AdaptTask.loss, []

    def poisoned(*arguments):
        calls.append(1)
        total, metrics = loss(*arguments)
        return total * (float("nan") if len(calls) == 4 else 1.0), metrics

    monkeypatch.setattr(AdaptTask, "loss", poisoned)
    with pytest.raises(UserError, match="not finite at step 3, so training stopped; its last good state is kept"):
        adapt(tmp_path / "a", material, steps=6, save_minutes=0.0)
    state = torch.load(run_folder(tmp_path / "a") / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3 and all(bool(value.isfinite().all()) for value in state["module"].values())


def test_a_gradient_without_end_stops_the_run_before_it_is_applied(tmp_path, material, monkeypatch):
    loss, calls = AdaptTask.loss, []

    class Endless(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    def poisoned(*arguments):
        calls.append(1)
        total, metrics = loss(*arguments)
        return Endless.apply(total) if len(calls) == 4 else total, metrics

    monkeypatch.setattr(AdaptTask, "loss", poisoned)
    with pytest.raises(UserError, match="the gradient is not finite at step 3, so training stopped"):
        adapt(tmp_path / "a", material, steps=6, save_minutes=0.0)
    state = torch.load(run_folder(tmp_path / "a") / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3 and all(bool(value.isfinite().all()) for value in state["module"].values())


def test_after_a_kill_the_best_weights_are_those_of_the_run_that_went_on(tmp_path, material):
    """A new best, then a kill before the checkpoint: what that validation kept is no part of the run any more."""
    adapt(tmp_path / "a", material, steps=4, validate_every=2)
    folder = run_folder(tmp_path / "a")
    history = json.loads((folder / "held_out.json").read_text())
    (folder / "held_out.json").write_text(json.dumps([*history[:1], {**history[1], "total": -1.0}]))
    for best in folder.glob("best-*"):
        best.write_bytes(best.read_bytes() if best.name.endswith("2.safetensors") else b"of a life that was not")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save(state | {"step": 2}, folder / "checkpoint.pt")
    _, adapter = adapt(tmp_path / "a", material, steps=4, validate_every=2)
    again = json.loads((folder / "held_out.json").read_text())
    assert [one["step"] for one in again] == [2, 4] and again[1]["total"] > 0
    chosen = min(again, key=lambda one: one["total"])
    got = held_out_losses(added(adapter), material.held_out)["total"]
    assert got == pytest.approx(chosen["total"], abs=1e-4) and adapter.manifest.figures["steps"] == chosen["step"]


def test_every_example_comes_once_before_any_comes_again_and_processes_share_them(material):
    settings = AdaptSettings(lora=LoraSettings(rank=1), rehearse=0.0, train=QUICK)
    built = model()
    task = AdaptTask(built, processor(built), material, settings, Path("nowhere"), ABOUT)
    number = {id(one): index for index, one in enumerate(material.train)}

    def batch(rank, world, start=0):
        return [number[id(one)] for one in next(task.batches(start, 1, rank, world)).conversations]

    both = [index for start in range(3) for rank in (0, 1) for index in batch(rank, 2, start)]
    assert sorted(both) == list(range(6))
    assert both == [batch(0, 1, start)[0] for start in range(6)]


def test_rehearsal_takes_its_share(material):
    known = streams(model(), 2, first=500)
    settings = AdaptSettings(lora=LoraSettings(rank=1), rehearse=0.5, train=QUICK)
    built = model()
    task = AdaptTask(
        built, processor(built), Material(material.train, material.held_out, known), settings, Path("nowhere"), ABOUT
    )
    batches = task.batches(0, 100, 0, 1)
    taken = sum(any(one is old for old in known) for one in next(batches).conversations)
    assert 30 < taken < 70


def launch(folder: Path, processes: int, batch_size: int, patience: int = 0) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    paths = os.pathsep.join(str(path) for path in (SCRIPT.parents[2], SCRIPT.parent))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), str(batch_size), str(patience)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return load_adapter(folder / "adapter").tensors


def test_two_processes_learn_what_one_learns_from_twice_the_batch(tmp_path):
    one, two = launch(tmp_path / "one", 1, 2), launch(tmp_path / "two", 2, 1)
    assert any(value.abs().max() > 1e-2 for name, value in one.items() if "lora_B" in name)
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-3), name


def test_the_command_runs_in_two_processes_and_the_second_finds_what_the_first_encoded(tmp_path):
    built = model()
    built.save_pretrained(tmp_path / "base")
    processor(built).save_pretrained(tmp_path / "base")
    for number, colour in enumerate(("red", "blue", "green", "yellow")):
        manual(tmp_path / "data", f"m{number}", colour)
    words = ["-m", "vlm", "adapt", "train", "data", "-o", "out", "--bundle", "base", "--max-steps", "2", "--rank", "2",
             "--rehearse", "0", "--validate-every", "2", "--batch-size", "1", "--device", "cpu"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 x CPU" in load_adapter(tmp_path / "out").manifest.record[0]["hardware"]
    assert len(list((tmp_path / "out.training").rglob("example-*.safetensors"))) == 4


def test_two_processes_stop_together(tmp_path):
    launch(tmp_path, 2, 1, patience=1)
    history = json.loads((tmp_path / "adapter.training" / "held_out.json").read_text())
    assert 2 <= len(history) < 15


def test_before_and_after_are_one_table(tmp_path, material):
    manual(tmp_path / "data")
    examples = load_examples(tmp_path / "data").examples
    assert [prompt for prompt, _ in guides_of(examples)] == ["How do I build a red stand?"]
    _, adapter = adapt(tmp_path / "a", material, steps=8)
    base = model()
    rows = compare(base, added(adapter, base), processor(base), examples, material.train, limit=0, seed=0)
    total = next(one for one in rows if one.figure == "held_out.total")
    assert total.after < total.before
    assert "| held_out.total | " in table(rows)


def test_settings_that_cannot_be_are_refused():
    for wrong in (dict(rank=0), dict(alpha=0.0), dict(dropout=1.0), dict(places=("all",))):
        with pytest.raises(UserError):
            LoraSettings(**wrong)
    with pytest.raises(UserError, match="rehearse is 1"):
        AdaptSettings(rehearse=1.0)
    with pytest.raises(UserError, match="0 to test on"):
        Material(streams(model(), 1), [])
