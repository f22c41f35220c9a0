"""A disk that fills up: one clear line, the last good state kept, nothing half-written."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from adapter_fixtures import manual, model, processor
from safetensors import SafetensorError
from typer.testing import CliRunner

from adapters.folder import load_adapter
from vlm.cli import app

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL_SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
FULL_TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.fixture
def place(tmp_path):
    built = model()
    built.save_pretrained(tmp_path / "base")
    processor(built).save_pretrained(tmp_path / "base")
    for number, colour in enumerate(("red", "blue", "green", "yellow")):
        manual(tmp_path / "data", f"m{number}", colour)
    return tmp_path


def train(place, steps=4):
    words = ["adapt", "train", place / "data", "-o", place / "adapter", "--bundle", place / "base",
             "--max-steps", steps, "--rank", 2, "--rehearse", 0, "--validate-every", 2, "--batch-size", 2,
             "--device", "cpu"]  # fmt: skip
    return CliRunner().invoke(app, [str(word) for word in words])


def filling(monkeypatch, name, error, after):
    """The function `name` writes half a file and fails, once it was called `after` times."""
    module, _, function = name.rpartition(".")
    whole, calls = getattr(__import__(module, fromlist=[function]), function), []

    def write(value, path, *arguments, **options):
        calls.append(1)
        if len(calls) <= after:
            return whole(value, path, *arguments, **options)
        with open(path, "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setattr(name, write)


def leftovers(place):
    return [path.name for path in place.rglob("*") if path.suffix in (".part", ".partial") or path.name[:1] == "."]


@pytest.mark.parametrize(
    ("name", "error", "after"),
    [
        ("vlm.training.cache.save_file", FULL_SAFETENSORS, 2),
        ("vlm.training.cache.save_file", FULL, 0),
        ("torch.save", FULL_TORCH, 0),
        ("torch.save", FULL, 0),
        ("adapters.training.save_file", FULL_SAFETENSORS, 0),
        ("adapters.training.save_file", FULL, 1),
        ("adapters.folder.save_file", FULL_SAFETENSORS, 0),
        ("adapters.folder.save_file", FULL, 0),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(place, monkeypatch, name, error, after):
    filling(monkeypatch, name, error, after)
    result = train(place)
    assert result.exit_code == 2, result.output
    said = [line for line in result.output.splitlines() if line.startswith("vlm:")]
    assert len(said) == 1 and "cannot write in" in said[0] and "the same command goes on" in said[0]
    assert "Traceback" not in result.output
    assert not (place / "adapter").exists() and not leftovers(place)
    monkeypatch.undo()
    again = train(place)
    assert again.exit_code == 0, again.output
    assert load_adapter(place / "adapter").manifest.figures["steps"] in (2, 4)


def test_a_checkpoint_that_cannot_be_replaced_stays_as_it_was(place, monkeypatch):
    assert train(place).exit_code == 0
    checkpoint = place / "adapter.training" / "checkpoint.pt"
    before, adapter = checkpoint.read_bytes(), load_adapter(place / "adapter").fingerprint()
    filling(monkeypatch, "torch.save", FULL_TORCH, 0)
    # A run whose budget is spent has nothing to save.
    assert train(place).exit_code == 0 and checkpoint.read_bytes() == before
    assert train(place, steps=6).exit_code == 2
    assert checkpoint.read_bytes() == before and torch.load(checkpoint, weights_only=True)["step"] == 4
    assert load_adapter(place / "adapter").fingerprint() == adapter
