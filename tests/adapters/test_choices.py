"""Adapters as a command names them: weights in words, several at once, and what is refused in one line."""

from __future__ import annotations

import shutil

import pytest
import torch
from adapter_fixtures import model, processor, stored
from typer.testing import CliRunner

from adapters.answering import (
    Choice,
    adapter_names,
    fitting_adapters,
    load_adapted_agent,
    load_combined_agent,
    parse_choice,
)
from adapters.folder import save_adapter
from adapters.lora import LoraSettings, apply
from vlm.bundle import fingerprint
from vlm.cli import app
from vlm.cli.options import adapted_agent_for
from vlm.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A bundle and adapters of it: one, two and, of the same name as one, deep/one; two worlds."""
    folder = tmp_path_factory.mktemp("choices")
    built = model()
    built.save_pretrained(folder / "base")
    processor(built).save_pretrained(folder / "base")
    known = fingerprint(folder / "base")
    (folder / "deep").mkdir()
    for seed, (name, world) in enumerate(
        [("one", {}), ("two", {}), ("deep/one", {}), ("a=0.5", {}), ("stands", {"outside": "Stands only."}),
         ("lamps", {"outside": "Lamps only."})]
    ):  # fmt: skip
        save_adapter(stored(built, LoraSettings(("text",), 2), seed, known, **world), folder / name, ["text"])
    return folder


def vlm(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def weights(built):
    """What the first wrapped layer does to a row of ones."""
    layer = built.text.model.layers[0].self_attn.q_proj
    return layer(torch.ones(1, layer.in_features))


def test_a_folder_may_carry_a_weight(tmp_path):
    assert parse_choice(f"{tmp_path}/a") == Choice(tmp_path / "a", 1.0)
    assert parse_choice(f"{tmp_path}/a=0.5") == Choice(tmp_path / "a", 0.5)
    assert parse_choice(f"{tmp_path}/a=-2") == Choice(tmp_path / "a", -2.0)


def test_a_folder_whose_name_holds_the_sign_is_meant_where_it_is_there(tmp_path):
    (tmp_path / "a=0.5").mkdir()
    assert parse_choice(f"{tmp_path}/a=0.5") == Choice(tmp_path / "a=0.5", 1.0)
    assert parse_choice(f"{tmp_path}/a=0.5=0.25") == Choice(tmp_path / "a=0.5", 0.25)
    # No number: a name like any other, which is then told to be missing.
    assert parse_choice(f"{tmp_path}/style=blue") == Choice(tmp_path / "style=blue", 1.0)


@pytest.mark.parametrize(("said", "reason"), [
    ("half", "'half' is no weight, expected a number"), ("nan", "the weight is nan"), ("inf", "the weight is inf"),
    ("100", "expected between -100 and 100"), ("", "'' is no weight"),
])  # fmt: skip
def test_a_weight_that_cannot_be_is_refused(tmp_path, said, reason):
    with pytest.raises(UserError, match=reason):
        parse_choice(f"{tmp_path}={said}")


def test_the_command_adds_the_adapters_with_their_weights(place):
    agent, name, known = adapted_agent_for(
        place / "base", "cpu", None, 0, [f"{place / 'one'}=0.5", str(place / "two"), f"{place / 'deep' / 'one'}=-1"]
    )
    assert name == "one=0.5 + two + one=-1"
    parts = [stored(model(), LoraSettings(("text",), 2), seed) for seed in (0, 1, 2)]
    expected = apply(
        model(), [(one.settings, one.tensors, weight) for one, weight in zip(parts, (0.5, 1.0, -1.0), strict=True)]
    )
    with torch.no_grad(), agent.backbone.use_adapter(agent.model, name):
        assert torch.allclose(weights(agent.model), weights(expected), atol=1e-5)
        assert not torch.allclose(weights(agent.model), weights(model()), atol=1e-3)
    one, two, three = (part.fingerprint() for part in parts)
    assert known == f"{fingerprint(place / 'base')}+{one}*0.5+{two}+{three}*-1"


def test_one_adapter_of_full_weight_keeps_its_own_name(place):
    _, adapters, name = load_combined_agent(place / "base", [parse_choice(str(place / "a=0.5"))])
    assert name == "a=0.5" and adapters.names == ("a=0.5",)


def refused(*words):
    result = vlm(*words)
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1, result.output
    return result.output


@pytest.mark.parametrize("words", [("draw", "a stool"), ("guide", "a stool")])
def test_commands_refuse_two_worlds_and_the_same_adapter_twice_in_one_line(place, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    words = (*words, "--bundle", place / "base", "--adapter")
    both = refused(*words, place / "stands", "--adapter", place / "lamps")
    assert "each bring a world of their own" in both
    assert "is given twice" in refused(*words, place / "one", "--adapter", f"{place / 'one'}=2")
    assert "'x' is no weight" in refused(*words, f"{place / 'one'}=x")
    assert "missing" in refused(*words, f"{place / 'none'}=0.5")
    assert not list(tmp_path.rglob("*.png"))


def test_two_adapters_of_one_name_are_both_found_and_told_apart(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(place / "one", tmp_path / "elsewhere" / "one")
    found = fitting_adapters(place / "base", [place / "one", tmp_path / "elsewhere", place / "one"])
    assert found == (place / "one", tmp_path / "elsewhere" / "one")
    _, adapters = load_adapted_agent(place / "base", found)
    assert list(adapters.names) == adapter_names(found) == ["one", "one (2)"]


def test_in_the_demo_adapters_are_entries_of_their_own_and_take_no_weight(place):
    found = fitting_adapters(place / "base", [place / "one", place / "two"])
    assert found == (place / "one", place / "two")
    with pytest.raises(UserError, match="one=0.5: a weight has no place here"):
        fitting_adapters(place / "base", [place / "two", place / "one=0.5"])
    told = refused("demo", "--bundle", place / "base", "--adapter", f"{place / 'one'}=0.5")
    assert "a weight has no place here" in told
