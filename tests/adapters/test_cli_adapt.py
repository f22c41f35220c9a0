"""`vlm adapt` from the outside, over a tiny bundle: check, train, eval, merge, convert, and `vlm guide --adapter`."""

from __future__ import annotations

import json

import pytest
from adapter_fixtures import manual, model, processor, rows_file, stored
from typer.testing import CliRunner

from adapters.answering import fitting_adapters, load_adapted_agent
from adapters.folder import load_adapter, save_adapter
from adapters.lora import LoraSettings
from adapters.registry import Adapters
from vlm.bundle import fingerprint, load_bundle
from vlm.cli import app
from vlm.cli.options import adapted_agent_for
from vlm.errors import UserError
from vlm.events import TextDelta


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a bundle and data in it, and an adapter that was trained on them."""
    folder = tmp_path_factory.mktemp("adapt")
    built = model()
    built.save_pretrained(folder / "base")
    processor(built).save_pretrained(folder / "base")
    for number, colour in enumerate(("red", "blue", "green", "yellow")):
        manual(folder / "data", f"m{number}", colour)
    result = train(folder, "adapter")
    assert result.exit_code == 0, result.output
    return folder


def vlm(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def train(folder, out, *more, data="data"):
    return vlm(
        "adapt", "train", folder / data, "-o", folder / out, "--bundle", folder / "base", "--max-steps", 3, "--rank", 2,
        "--rehearse", 0, "--validate-every", 2, "--batch-size", 2, "--device", "cpu", *more,
    )  # fmt: skip


def test_training_writes_an_adapter_of_this_base_that_names_no_place(place):
    adapter = load_adapter(place / "adapter")
    assert adapter.manifest.base == fingerprint(place / "base")
    assert adapter.manifest.world.colours == ("blue", "green", "red", "yellow")
    assert adapter.manifest.data == {"Markdown manuals": 4, "held out": 1}
    assert adapter.settings.rank == 2 and adapter.settings.alpha == 4.0
    told = "".join(path.read_text(errors="ignore") for path in (place / "adapter").iterdir())
    assert str(place) not in told
    assert adapter.manifest.record[0]["steps"] == 3
    assert adapter.manifest.figures["held_out.decoder"] > 0
    assert any(name.startswith("image_tokenizer.decoder.") for name in adapter.tensors)


def test_the_command_learns_from_the_pictures_of_some_examples_and_tests_on_those_of_others(place, monkeypatch):
    seen = []

    def training(model, processor, material, settings, out, about, **options):
        seen.append((material, settings))

    monkeypatch.setattr("adapters.training.train_adapter", training)
    assert train(place, "seen", "--coarse-emphasis", 0.4, "--rehearse", 0.5).exit_code == 0
    (material, settings), = seen
    assert (len(material.pictures), len(material.held_out_pictures)) == (6, 2)
    learnt, tested = ({one.numpy().tobytes() for one in some} for some in
                      (material.pictures, material.held_out_pictures))  # fmt: skip
    assert len(learnt) == 3 and len(tested) == 1 and not learnt & tested
    assert material.known_picture is not None and material.known_picture(0).shape == material.pictures[0].shape
    assert settings.coarse_emphasis == 0.4 and settings.lora.places == ("text", "image", "residual", "decoder")


def test_the_same_command_goes_on_and_another_budget_adds_to_it(place):
    again = train(place, "adapter", "--max-steps", 4)
    assert again.exit_code == 0, again.output
    assert sum(run["steps"] for run in load_adapter(place / "adapter").manifest.record) == 4


def test_check_shows_what_there_is_and_how_the_model_sees_it(place):
    result = vlm("adapt", "check", place / "data", "--bundle", place / "base", "--pictures", place / "sample.png")
    assert result.exit_code == 0, result.output
    assert "4 Markdown manuals" in result.output and "8 pictures" in result.output
    assert "⟦# A red stand" in result.output and (place / "sample.png").is_file()
    before = (place / "sample.png").read_bytes()
    result = vlm("adapt", "check", place / "data", "--bundle", place / "base", "--pictures", place / "sample.png")
    assert result.exit_code == 2 and "sample.png exists" in result.output
    assert (place / "sample.png").read_bytes() == before


def test_check_names_every_broken_row_and_training_refuses_them(place):
    (place / "bad").mkdir()
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    long = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "long " * 5000}]}
    rows_file(place / "bad" / "rows.jsonl", [good, "{", long])
    result = vlm("adapt", "check", place / "bad", "--bundle", place / "base")
    assert result.exit_code == 2
    assert "rows.jsonl, line 2: no JSON" in result.output and "rows.jsonl, line 3: takes" in result.output
    refused = train(place, "never", data="bad")
    assert refused.exit_code == 2 and "rows.jsonl, line 2" in refused.output
    assert not (place / "never").exists()


def test_eval_prints_one_table_before_and_after(place):
    result = vlm("adapt", "eval", place / "adapter", place / "data", "--bundle", place / "base", "--limit", 0)
    assert result.exit_code == 0, result.output
    assert "| figure | before | after | change |" in result.output and "| held_out.code |" in result.output
    assert "| held_out.decoder |" in result.output and "| held_out.psnr |" in result.output
    assert "base." not in result.output
    free = vlm("adapt", "eval", place / "adapter", place / "data", "--bundle", place / "base", "--limit", 1)
    assert free.exit_code == 0, free.output
    # Random weights answer nothing that is true: every share is 0, before and after.
    for name in ("held_out.structure", "held_out.parts", "base.picture.truth", "base.text.exact"):
        assert f"| {name} | 0 | 0 | +0 |" in free.output


def test_merge_writes_a_bundle_that_loads_without_the_adapter(place):
    result = vlm("adapt", "merge", place / "adapter", "-o", place / "merged", "--bundle", place / "base")
    assert result.exit_code == 0, result.output
    merged, _ = load_bundle(place / "merged")
    base, _ = load_bundle(place / "base")
    registry = Adapters(base, fingerprint(place / "base"))
    true = registry.merged(registry.load(place / "adapter")).state_dict()
    assert all(value.equal(true[name]) for name, value in merged.state_dict().items())
    name = "text.model.layers.0.self_attn.q_proj.weight"
    assert not merged.state_dict()[name].equal(base.state_dict()[name])
    # --force replaces a model of ours, not whatever else is called config.json.
    (place / "theirs").mkdir()
    (place / "theirs" / "config.json").write_text("{}")
    words = ("adapt", "merge", place / "adapter", "--bundle", place / "base", "--force", "-o")
    assert vlm(*words, place / "merged").exit_code == 0
    assert vlm(*words, place / "theirs").exit_code == 2
    assert [path.name for path in (place / "theirs").iterdir()] == ["config.json"]


def test_an_adapter_of_another_base_is_refused_by_name(place):
    other = model(seed=3)
    other.save_pretrained(place / "other")
    processor(other).save_pretrained(place / "other")
    result = vlm("guide", "a stand", "-o", place / "out", "--bundle", place / "other", "--adapter", place / "adapter")
    assert result.exit_code == 2
    assert fingerprint(place / "base") in result.output and fingerprint(place / "other") in result.output
    assert not (place / "out").exists()


def test_guide_answers_with_the_adapters_words_what_is_outside(place, monkeypatch):
    said = json.loads((place / "adapter" / "adapter.json").read_text())
    said["world"]["outside"] = "I only know stands."
    (place / "adapter" / "adapter.json").write_text(json.dumps(said))

    def answer(*arguments):
        yield TextDelta("I cannot help.")
        return "stop"

    monkeypatch.setattr("vlm.chat.answer_events", answer)
    result = vlm(
        "guide", "Hello", "-q", "-o", place / "out", "--bundle", place / "base", "--adapter", place / "adapter"
    )
    assert result.exit_code == 3 and "I only know stands." in result.output
    result = vlm("guide", "Hello", "-o", place / "out", "--bundle", place / "base", "--adapter", place / "adapter")
    assert result.exit_code == 3 and result.stdout == "I cannot help.\nI only know stands.\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--max-steps", 0, "--minutes", 0), "a run needs an end"),
        (("--minutes", "nan"), "train.minutes is a number of at least 0"),
        (("--learning-rate", -1), "train.learning_rate is a number of at least 0"),
        (("--accumulate", 0), "train.accumulate must be at least 1"),
    ],
)
def test_impossible_options_are_refused_in_one_line_before_anything_is_read(place, monkeypatch, words, reason):
    monkeypatch.setattr("vlm.bundle.load_bundle", None)
    result = train(place, "impossible", *words)
    assert result.exit_code == 2 and reason in result.output and "unexpected" not in result.output
    assert not list(place.glob("impossible*"))


def test_what_is_in_the_way_is_told_before_anything_is_encoded(place, monkeypatch):
    monkeypatch.setattr("vlm.bundle.load_bundle", None)
    (place / "taken").mkdir()
    (place / "taken" / "mine.txt").write_text("mine")
    for words, reason in ((("taken",), "is not empty"), (("adapter", "--no-resume"), "holds a run; resume it")):
        result = train(place, *words)
        assert result.exit_code == 2 and reason in result.output
    monkeypatch.chdir(place / "taken")
    here = train(place, ".", "--out", ".")
    assert here.exit_code == 2 and "is not empty" in here.output
    assert [path.name for path in (place / "taken").iterdir()] == ["mine.txt"]


def test_files_that_are_no_manuals_are_told_of(place):
    (place / "more").mkdir()
    for number in range(2):
        manual(place / "more", f"m{number}", ("red", "blue")[number])
    for name in ("old.markdown", "notes.txt", "README.md"):
        (place / "more" / name).write_text("# Not a manual")
    result = vlm("adapt", "check", place / "more", "--bundle", place / "base")
    assert result.exit_code == 0 and "note: 2 files not read (notes.txt, old.markdown)" in result.output
    assert "not read" not in vlm("adapt", "check", place / "data", "--bundle", place / "base").output


def test_convert_replaces_nothing_unasked_and_its_source_never(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    rows_file(tmp_path / "in.jsonl", [{"conversations": turns}])
    before = (tmp_path / "in.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_text("mine")
    words = ("adapt", "convert", tmp_path / "in.jsonl")
    for target, more in (("in.jsonl", ()), ("in.jsonl", ("--force",)), ("out.jsonl", ())):
        refused = vlm(*words, tmp_path / target, *more)
        assert refused.exit_code == 2 and "take another name" in refused.output
    assert (tmp_path / "in.jsonl").read_bytes() == before and (tmp_path / "out.jsonl").read_text() == "mine"
    assert vlm(*words, tmp_path / "out.jsonl", "--force").exit_code == 0
    assert "messages" in (tmp_path / "out.jsonl").read_text()


def test_an_agent_answers_with_an_adapter_and_without_it(place, tmp_path):
    loud = stored(model(), LoraSettings(rank=2), base=fingerprint(place / "base"))
    save_adapter(loud, tmp_path / "loud", ["text"])
    agent, adapters = load_adapted_agent(place / "base", [tmp_path / "loud"], seed=3)
    assert adapters.names == ("loud",)

    def answer(name):
        *_, last = agent.session().reply("How?", adapter=name, temperature=1.0, max_new_tokens=12)
        return last.conversation.ids.tolist()

    plain, adapted = answer(None), answer("loud")
    assert plain != adapted and answer(None) == plain and answer("loud") == adapted
    with pytest.raises(UserError, match="no adapter 'other'"):
        agent.session().reply("How?", adapter="other")


@pytest.mark.parametrize("words", [("draw", "a stool", "-o", "x.png"), ("ask", "picture.png", "what?"), ("guide", "x")])
def test_every_command_takes_the_folder_of_an_adapter(place, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").write_bytes((place / "data" / "m0.png").read_bytes())
    result = vlm(*words, "--bundle", place / "base", "--adapter", place / "data")
    assert result.exit_code == 2 and "data" in result.output and "adapter" in result.output
    assert len(result.output.strip().splitlines()) == 1 and not (tmp_path / "x.png").exists()
    # With a good one the command gets as far as the model, whose random weights answer as they like.
    result = vlm(*words, "--bundle", place / "base", "--adapter", place / "adapter")
    assert result.exit_code in (0, 1, 3) and "unexpected" not in result.output


def test_adapters_are_found_beside_the_bundle_they_fit(place, tmp_path):
    assert fitting_adapters(place / "base", [place]) == (place / "adapter",)
    assert fitting_adapters(place / "base", [place / "adapter", place]) == (place / "adapter",)
    other = model(seed=5)
    other.save_pretrained(tmp_path / "other")
    processor(other).save_pretrained(tmp_path / "other")
    assert fitting_adapters(tmp_path / "other", [place]) == ()


def test_what_was_made_with_an_adapter_says_so(place):
    plain, _, known = adapted_agent_for(place / "base", "cpu", None, 3, None)
    assert known == plain.fingerprint == fingerprint(place / "base") and plain.seed == 3
    agent, name, known = adapted_agent_for(place / "base", "cpu", None, 3, [str(place / "adapter")])
    assert (name, known) == ("adapter", f"{plain.fingerprint}+{load_adapter(place / 'adapter').fingerprint()}")
    assert agent.seed == 3
