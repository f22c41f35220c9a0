"""The worked example's script: its manuals can be learnt from, and its judge knows them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from adapters.importers import load_examples
from vlm.flatpack.build import stages
from vlm.flatpack.checker import check
from vlm.flatpack.product import FAMILIES
from vlm.flatpack.reading import wrong_words
from vlm.guide import PICTURE, parse_guide

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manuals():
    module = script("manuals")
    assert "pedestal" not in FAMILIES  # no part of the package
    with module.pedestals_known():
        yield module
    assert "pedestal" not in FAMILIES


@pytest.mark.parametrize("kind", ["pedestal", "drafting"])
def test_its_manuals_are_whole_true_and_of_the_training_split(manuals, tmp_path, kind):
    manuals.make(kind, tmp_path, 3)
    found = load_examples(tmp_path)
    assert not found.faults and len(found.examples) == 3 and found.title
    for number, example in enumerate(found.examples):
        product, prompt = manuals.case(kind, number, "train")
        assert not product.held_out
        assert ("drafting paper" in prompt.text) == (kind == "drafting")
        answer = example.messages[1]["content"]
        marked = "".join(part["text"] if part["type"] == "text" else f"\n{PICTURE}\n" for part in answer)
        guide = parse_guide(marked)
        parts = [f"{part.count} x {part.name}" for part in guide.parts]
        tools = [tool.name if tool.count is None else f"{tool.count} x {tool.name}" for tool in guide.tools]
        asked = {name: product[name] for name in prompt.stated}
        steps = [step.text for step in guide.steps]
        assert not wrong_words(guide.title, parts, tools, steps, asked, product.family, guide.description)
        assert len(example.pictures) == len(stages(product))
    picture = Image.open(found.examples[0].pictures[0])
    product, _ = manuals.case(kind, 0, "train")
    assert check(picture, product, 0, manuals.style_of(kind)).ok
    assert not check(picture, product, 1, manuals.style_of(kind)).ok
    if kind == "drafting":
        assert not check(picture, product, 0).ok


def test_every_pedestal_can_be_drawn_and_told_apart(manuals):
    seen = {}
    for number in range(24):
        product, _ = manuals.case("pedestal", number, "held_out")
        assert product.held_out and product.family == "pedestal"
        pictures = [manuals.render(product, step) for step in range(len(stages(product)) + 1)]
        assert len(pictures) == 4
        seen[product] = pictures[-1].tobytes()
    assert len(set(seen.values())) == len(seen) > 10


def test_the_whole_example_runs_and_keeps_its_figures(tmp_path, monkeypatch):
    """With the bundled model, a few seconds of training and one product of each kind: how true is not looked at."""
    monkeypatch.syspath_prepend(FOLDER)
    example = script("worked_example")
    monkeypatch.setattr(example, "FIGURES", tmp_path / "figures.json")
    (tmp_path / "figures.json").write_text(json.dumps({"drafting-200": {"guides": 200}}))
    words = ["pedestal", tmp_path / "run", "--guides", 3, "--minutes", 0.03, "--limit", 1, "--own-limit", 1]
    monkeypatch.setattr(sys, "argv", ["worked_example.py", *map(str, words)])
    example.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.pop("drafting-200") == {"guides": 200}
    told = figures["pedestal-3"]
    assert told["guides"] == 3 and told["steps"] >= 1 and 0 < told["megabytes"] < 10
    assert all(value == 0 for key, value in told.items() if key.startswith("forgotten.off."))
    assert {f"{when}.{key}" for when in ("before", "after") for key in ("picture.truth", "text.exact")} <= set(told)
    assert (tmp_path / "run" / "pedestal-3.png").is_file()
    # An adapter that is whole is not trained again.
    monkeypatch.setattr(example.subprocess, "run", None)
    assert example.prepare("pedestal", tmp_path / "run", 3, 1.0) == tmp_path / "run" / "pedestal-3-adapter"
