"""The fuzzer finds what it is there to find, and a short run of every target finds nothing."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from tests.fuzz.models import MODEL_TARGETS
from tests.fuzz.mutate import AWKWARD_VALUES, mutate_bytes, mutate_json, mutate_value, mutate_yaml
from tests.fuzz.run import Target, fuzz
from tests.fuzz.targets import TARGETS
from vlm.errors import UserError

EVERY = {target.name: target for target in (*TARGETS, *MODEL_TARGETS)}


@pytest.mark.parametrize("name", EVERY)
def test_a_short_run_finds_nothing(name: str):
    result = fuzz(EVERY[name], count=12, seed=7)
    assert result.failures == []
    assert result.inputs == 12 and result.refused > 0


@pytest.mark.parametrize("name", EVERY)
def test_a_whole_file_is_read(name: str, tmp_path):
    target = EVERY[name]
    if name == "save on a full disk":
        pytest.skip("its file is a setting, not a file that is read")
    seeds = target.make(tmp_path)
    path = next(tmp_path.glob(target.file), tmp_path / target.file)
    path.write_bytes(seeds[0])
    target.read(tmp_path)


def crash(folder: Path) -> None:
    raise KeyError("no such key")


def hang(folder: Path) -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def litter(folder: Path) -> None:
    (folder / ".vlm.partial").write_text("half")
    raise UserError("bad")


def ramble(folder: Path) -> None:
    raise UserError("two\nlines")


def wrong(folder: Path) -> None:
    assert (folder / "f").read_bytes() == b""


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (crash, "KeyError: 'no such key'"),
        (hang, "no answer in 0.2 s"),
        (litter, r"left behind \['.vlm.partial'\]"),
        (ramble, "an error of no single line"),
        (wrong, "AssertionError"),
    ],
)
def test_faults_are_found_and_kept(tmp_path, read, told: str):
    target = Target("faulty file", "f", lambda folder: [b"content"], mutate_bytes, read)
    result = fuzz(target, count=2, keep=tmp_path, seconds=0.2)
    assert len(result.failures) == 2 and result.read == result.refused == 0
    (kept,) = tmp_path.glob("faulty-file-0-1")
    rng = random.Random("0:faulty file:1")
    assert kept.read_bytes() == mutate_bytes(rng, rng.choice([b"content"]), [b"content"])
    assert all(re.search(told, failure) for failure in result.failures)


def test_what_is_allowed_is_an_answer():
    target = Target("f", "f", lambda folder: [b"x"], mutate_bytes, crash, (KeyError,))
    result = fuzz(target, count=3)
    assert (result.refused, result.failures) == (3, [])


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_json, mutate_yaml])
def test_a_seed_is_a_file(mutate):
    data = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
    once = [mutate(random.Random(seed), data, [data]) for seed in range(200)]
    assert once == [mutate(random.Random(seed), data, [data]) for seed in range(200)]
    assert len(set(once)) > 150


def test_values_change_and_stay_trees():
    before = repr(AWKWARD_VALUES)
    for seed in range(2000):
        value = mutate_value(random.Random(seed), {"a": [1, 2.5, "x"], "b": {"c": None}})
        assert len(repr(value)) < 200_000 and "[...]" not in repr(value) and "{...}" not in repr(value)
    assert repr(AWKWARD_VALUES) == before
