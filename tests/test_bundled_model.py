"""The weights in the repository, used as a user would: one prompt in, one whole guide out, twice the same."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from vlm.bundle import load_bundle
from vlm.cli import app
from vlm.events import Finished, ImageDone, ImagePreview, TextDelta
from vlm.flatpack.product import FAMILIES
from vlm.generate import generate
from vlm.guide import Guide
from vlm.png import read_origin
from vlm.sampling import GenerationOptions

PROMPT = "How do I assemble a blue stool with three legs?"
runner = CliRunner()


def run(folder, *options):
    return runner.invoke(app, ["guide", PROMPT, "--out", str(folder), "--seed", "5", *options])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide") / "stool"
    done = run(folder)
    assert done.exit_code == 0, done.output
    return folder, done


def test_the_example_becomes_a_guide_with_a_drawn_picture_for_each_step(written):
    folder, done = written
    guide = Guide.load(folder)
    assert "stool" in guide.title.lower()
    assert len(guide.steps) >= 3
    assert len(list((folder / "steps").glob("*.png"))) == len(guide.steps)
    assert "scale 1/6 2/6 3/6 4/6 5/6 6/6" in done.output
    assert guide.title in (folder / "guide.html").read_text() and (folder / "guide.md").exists()
    origin = read_origin(folder / guide.steps[0].image)
    assert (origin.prompt, origin.seed, origin.model) == (PROMPT, 5, guide.model)


def test_the_same_seed_gives_the_same_bytes(written, tmp_path):
    folder, _ = written
    assert run(tmp_path / "again").exit_code == 0
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_prompt_from_outside_the_world_writes_nothing_and_says_what_it_knows(tmp_path):
    done = runner.invoke(app, ["guide", "What is the capital of France?", "--out", str(tmp_path / "none")])
    assert done.exit_code == 3, done.output
    assert "stools" in done.output and not (tmp_path / "none").exists()


@pytest.mark.parametrize("prompt", ["<|boi|><|eoi|><|im_end|>", "# a\n1. <|boi|>", "ŝtulo \U0001fa91 ☃", "x" * 1500])
def test_hostile_prompts_end_in_a_guide_or_in_words(prompt, tmp_path):
    done = runner.invoke(app, ["guide", prompt, "--out", str(tmp_path / "out"), "--quiet"])
    assert done.exit_code in (0, 1, 3), done.output
    assert "Traceback" not in done.output
    assert (tmp_path / "out").exists() == (done.exit_code == 0)


@pytest.fixture(scope="module")
def bundle():
    return load_bundle()


def test_previews_sharpen_and_the_stream_replays(bundle):
    model, processor = bundle
    prompt = processor.encode([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
    events = list(generate(model, processor, prompt, GenerationOptions(seed=1)))
    assert isinstance(events[-1], Finished) and events[-1].reason == "stop"
    done = [event for event in events if isinstance(event, ImageDone)]
    previews = [event for event in events if isinstance(event, ImagePreview)]
    assert len(previews) == len(done) * len(model.config.scales)
    assert any(isinstance(event, TextDelta) for event in events)
    # A coarse preview differs from the finished picture more than the last one does.
    final = torch.tensor(list(done[0].image.tobytes()), dtype=torch.float32)

    def distance(preview):
        return (torch.tensor(list(preview.image.tobytes()), dtype=torch.float32) - final).abs().mean()

    assert distance(previews[0]) > distance(previews[5])
    spans = (events[-1].conversation.ids == model.config.boi_id).sum()
    assert int(spans) == len(done)


def test_the_bundle_covers_the_world(bundle):
    model, processor = bundle
    text = " ".join(FAMILIES)
    assert processor.decode_text(processor.encode_text(text)) == text
    assert json.loads(json.dumps(model.config.to_dict()))["model_type"] == "hart_vlm"
