"""Config files: typed, and an unknown key names the nearest known one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vlm.errors import UserError
from vlm.settings import Settings, differences, load_settings, packaged_config
from vlm.training.model import ModelSettings
from vlm.training.tokenizer import TokenizerSettings


@dataclass(frozen=True)
class Train:
    steps: int = 10
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"train.steps must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class Run:
    name: str = "run"
    train: Train = field(default_factory=Train)


class Strict(Settings):
    name: str = "run"
    train: Train = Train()


@pytest.fixture(params=[Run, Strict])
def kind(request):
    return request.param


def write(tmp_path, text: str):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_values_and_overrides(tmp_path, kind):
    path = write(tmp_path, "name: a\ntrain:\n  steps: 5\n  learning_rate: 6e-4\n")
    settings = load_settings(path, kind, ["train.steps=100", "train.betas=[0.8, 0.9]", "name=b"])
    assert settings == kind(name="b", train=Train(100, 6e-4, (0.8, 0.9)))
    assert load_settings(write(tmp_path, ""), kind) == kind()


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("nam: a", [], "unknown key nam; did you mean name?"),
        ("train: {step: 5}", [], "unknown key train.step; did you mean train.steps?"),
        ("zzzzz: 1", [], "unknown key zzzzz; expected one of name, train"),
        ("1: 1", [], "unknown key 1"),
        ("", ["train.stps=1"], "did you mean train.steps?"),
        ("", ["train.steps"], "section.key=value"),
        ("", ["=1"], "section.key=value"),
        ("", ["train.steps=["], "no YAML"),
        ("train: {steps: many}", [], "train.steps: Input should be a valid integer"),
        ("train: {steps: 0}", [], "train: train.steps must be at least 1, got 0"),
        ("train: {learning_rate: .inf}", [], "train.learning_rate is inf, expected a finite number"),
        ("train: {betas: [0.9, .nan]}", [], "train.betas is nan"),
        ("", ["train.learning_rate=-inf"], "train.learning_rate is -inf"),
        ("train: {steps: 3000000000}", [], "train.steps is 3,000,000,000, expected at most 2,147,483,647"),
        ("train: 3", [], "train"),
        ("train: 3", ["train.steps=1"], "train is a value"),
        ("- a", [], "holds a list"),
        ("a: [", [], "no YAML"),
        ("!!python/object/apply:os.system ['true']", [], "no YAML"),
        ("a: \x00", [], "no YAML"),
    ],
)
def test_mistakes_are_one_line(tmp_path, kind, text: str, overrides: list[str], message: str):
    with pytest.raises(UserError) as caught:
        load_settings(write(tmp_path, text), kind, overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_binary_file(tmp_path, kind):
    with pytest.raises(UserError, match="cannot read the config"):
        load_settings(tmp_path / "none.yaml", kind)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match="cannot read the config"):
        load_settings(tmp_path / "b.yaml", kind)


def test_packaged_configs():
    assert packaged_config("tokenizer").is_file() and packaged_config("model").is_file()
    with pytest.raises(UserError, match="expected one of model, model-gpu, tokenizer, tokenizer-gpu"):
        packaged_config("none")


@pytest.mark.parametrize("suffix", ["", "-gpu"])
def test_packaged_configs_are_settings_of_their_tasks(suffix):
    tokenizer = load_settings(packaged_config(f"tokenizer{suffix}"), TokenizerSettings)
    model = load_settings(packaged_config(f"model{suffix}"), ModelSettings)
    assert tokenizer.train.optimizer == model.train.optimizer == "muon"
    assert (model.train.batch_size > 20) == (tokenizer.train.batch_size > 100) == bool(suffix)


def test_differences_name_what_is_not_the_default():
    run = Run(name="other", train=Train(learning_rate=2e-3, betas=(0.9, 0.99)))
    assert differences(run) == {"name": "other", "train.learning_rate": 2e-3, "train.betas": [0.9, 0.99]}
    assert differences(Run()) == {}
