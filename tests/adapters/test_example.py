"""The worked example's script: its manuals can be learnt from, and its judge knows them."""

from __future__ import annotations

import pytest
from adapter_fixtures import example_script
from PIL import Image

from adapters.importers import load_examples
from vlm.events import ImageDone, TextDelta
from vlm.flatpack.build import stages
from vlm.flatpack.checker import check
from vlm.flatpack.product import FAMILIES
from vlm.flatpack.reading import wrong_words
from vlm.guide import PICTURE, parse_guide


@pytest.fixture(scope="module")
def manuals():
    module = example_script("manuals")
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


def test_guides_on_drafting_paper_are_counted_whether_asked_for_or_not(manuals, monkeypatch):
    said = []

    class Processor:
        def encode(self, messages, **options):
            return messages[0]["content"]

    def drawn(model, processor, prompt, options):
        said.append(prompt)
        asked = "drafting paper" in prompt
        # One that is asked for comes on plain paper, one that is not on drafting paper; one answers without a picture.
        style = manuals.style_of("drafting" if asked != (len(said) in (2, 9)) else "pedestal")
        product, _ = manuals.case("drafting", len(said), "held_out")
        yield TextDelta("Here.")
        if len(said) != 3:
            yield ImageDone(0, manuals.render(product, 0, 128, style), None)

    monkeypatch.setattr("vlm.generate.generate", drawn)
    assert manuals.on_paper(None, Processor(), 8) == (6, 1)
    assert sum("drafting paper" in prompt for prompt in said) == 8 and len(said) == 16


def test_every_pedestal_can_be_drawn_and_told_apart(manuals):
    seen = {}
    for number in range(24):
        product, _ = manuals.case("pedestal", number, "held_out")
        assert product.held_out and product.family == "pedestal"
        pictures = [manuals.render(product, step) for step in range(len(stages(product)) + 1)]
        assert len(pictures) == 4
        seen[product] = pictures[-1].tobytes()
    assert len(set(seen.values())) == len(seen) > 10
