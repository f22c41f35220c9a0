"""`vlm eval`: what it writes, and that what cannot be is refused before anything is measured."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from vlm.bundle import bundle_path, fingerprint
from vlm.checksums import verify_checksums
from vlm.cli import app


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A copy of the packaged bundle, and an evaluation that takes no time."""

    def measure(model, processor, *, limit, seed, page):
        if page is not None:
            (page / "index.html").write_text(f"{limit} products")
        return {"picture.truth": 0.25, "latency.image_s": 1}

    monkeypatch.setattr("vlm.evaluation.evaluate", measure)
    return shutil.copytree(bundle_path(), tmp_path / "bundle")


def vlm_eval(*words: object):
    return CliRunner().invoke(app, ["eval", *map(str, words)])


def test_figures_say_of_which_bundle_they_are_and_the_card_tells_them(bundle, tmp_path):
    before = fingerprint(bundle)
    told = vlm_eval("--bundle", bundle, "--limit", 3, "--seed", 7, "--json", tmp_path / "eval.json",
                    "--page", tmp_path / "page", "--card")  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "picture.truth" in told.stdout and "0.25" in told.stdout
    kept = json.loads((tmp_path / "eval.json").read_text())
    measured = kept.pop("measured")
    assert kept == {"picture.truth": 0.25, "latency.image_s": 1}
    assert measured.pop("date").startswith("20")
    assert measured == {"bundle": before, "limit": 3, "seed": 7, "device": "cpu"}
    assert (tmp_path / "page" / "index.html").read_text() == "3 products"
    card = (bundle / "README.md").read_text()
    assert "`picture.truth` | 0.25" in card and "--limit 3 --seed 7" in card
    assert fingerprint(bundle) == before and verify_checksums(bundle)


@pytest.mark.parametrize(
    "words, fault, said",
    [
        (["--device", "nope"], None, "the device 'nope' is unknown"),
        (["--card"], "training.json", "tells of no training"),
        ([], "model.safetensors.index.json", "cannot read"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(bundle, tmp_path, monkeypatch, words, fault, said):
    monkeypatch.setattr("vlm.evaluation.evaluate", lambda *rest, **more: pytest.fail("it was measured"))
    if fault:
        (bundle / fault).unlink()
    told = vlm_eval("--bundle", bundle, "--json", tmp_path / "eval.json", "--page", tmp_path / "page", *words)
    assert told.exit_code == 2 and said in " ".join(told.stderr.split()) and "Traceback" not in told.stderr
    assert not (tmp_path / "eval.json").exists() and not (tmp_path / "page").exists()
