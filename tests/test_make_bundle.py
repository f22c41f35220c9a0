"""`make bundle` itself: what it runs, in which order, what it refuses before hours are spent. Training is a fake."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAKE = """#!/bin/sh
echo "$@" >> calls
case "$2" in model) mkdir -p runs/model/bundle && echo new > runs/model/bundle/stream_processor.json ;; esac
case "$1" in eval) echo card > runs/model/bundle/README.md ;; esac
test ! -e fails || { echo out of memory >&2; exit 3; }
"""


@pytest.fixture
def place(tmp_path):
    """A folder in which the environment is installed, its `vlm` a script that notes what it was asked."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name, text in {"vlm": FAKE, "python": ""}.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # What a make that runs these tests hands on would be this make's too.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "bundle", *words], cwd=place, env=inherited, capture_output=True, text=True)


def calls(place: Path) -> list[str]:
    return (place / "calls").read_text().splitlines() if (place / "calls").exists() else []


@pytest.mark.parametrize(
    "words, kind, minutes",
    [([], "", ("", "")), (["MINUTES=120"], "", ("45", "75")), (["GPU=1", "MINUTES=20"], "-gpu", ("7.5", "12.5"))],
)
def test_it_trains_the_tokenizer_then_the_towers_then_measures_and_puts_the_bundle_in_its_place(
    place, words, kind, minutes
):
    done = make(place, *words, "INTO=kept/mine")
    assert done.returncode == 0, done.stderr
    told = calls(place)
    assert [one.split()[:2] for one in told] == [["train", "tokenizer"], ["train", "model"], ["eval", "--bundle"]]
    for one, part, share in zip(told, ("tokenizer", "model"), minutes, strict=False):
        assert f"--config vlm/configs/{part}{kind}.yaml" in one and f"--out runs/{part}" in one
        assert (ROOT / f"vlm/configs/{part}{kind}.yaml").is_file()
        assert (f"--set train.minutes={share} " in one) if share else ("train.minutes" not in one)
    assert {file.name for file in (place / "kept/mine").iterdir()} == {"stream_processor.json", "README.md"}


def test_a_bundle_that_is_there_is_replaced_once_the_new_one_is_measured_and_not_before(place):
    old = place / "vlm" / "bundle"
    old.mkdir(parents=True)
    (old / "stream_processor.json").write_text("old\n")
    (old / "leftover").touch()
    (place / "fails").touch()
    assert make(place).returncode != 0
    assert (old / "stream_processor.json").read_text() == "old\n" and (old / "leftover").exists()
    (place / "fails").unlink()
    assert make(place).returncode == 0
    assert (old / "stream_processor.json").read_text() == "new\n" and not (old / "leftover").exists()


def test_a_place_that_is_no_bundle_is_refused_before_anything_is_trained(place):
    (place / "photos").mkdir()
    done = make(place, "INTO=photos")
    assert done.returncode != 0 and "photos is there and is no bundle" in done.stdout and not calls(place)
    assert (place / "photos").is_dir()


def test_the_run_itself_may_be_the_place(place):
    assert make(place, "INTO=runs/model/bundle").returncode == 0
    assert (place / "runs/model/bundle/README.md").exists()
