"""Every form in which people have data, whole and broken; nothing is left out silently."""

from __future__ import annotations

import json

import pytest
from adapter_fixtures import MANUAL, manual, model, picture_file, processor, rows_file

from adapters.encoding import encode_examples, measure, misfits, oddities, open_cache, rehearsal, shown
from adapters.examples import Example
from adapters.held_out import split
from adapters.importers import convert_llava, from_markdown, load_examples
from vlm.errors import UserError
from vlm.export import save_guide
from vlm.guide import Guide, Part, Step, Tool
from vlm.pictures import open_picture
from vlm.stream import parse


@pytest.fixture(scope="module")
def base():
    return model()


def row(*content, question="What is it?"):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": list(content)}]}


def text(words):
    return {"type": "text", "text": words}


def image(path):
    return {"type": "image", "path": path}


def answer(example: Example) -> str:
    return "".join(part.get("text", "<picture>") for part in example.messages[-1]["content"])


WRITTEN = """# A red stand
Quick to build.

## Parts
- 2 x red leg

## Steps
1. Stand the two legs up.
<picture>
2. Lay the top on them.
<picture>
Done!"""


def test_a_markdown_manual_becomes_the_form_that_the_model_writes(tmp_path):
    manual(tmp_path, "stand", "red")
    (tmp_path / "README.md").write_text("About this folder.")
    found = load_examples(tmp_path)
    (example,) = found.examples
    assert not found.faults and found.colours == {"red"} and found.kinds == {"Markdown manuals": 1}
    assert example.messages[0]["content"] == [text("How do I build a red stand?")]
    assert answer(example) == WRITTEN
    assert [path.name for path in example.pictures] == ["stand.png", "stand.png"]


def test_a_guide_that_was_exported_reads_the_same_from_its_json_and_its_markdown(tmp_path):
    guide = Guide(
        title="A [big] stand*", description="It holds a_plant.", prompt="How do I <build> it?", seed=1, model="x",
        parts=(Part(count=2, name="mauve leg", colour="mauve"),),
        tools=(Tool(name="hex key"), Tool(name="bolt", count=4)),
        steps=tuple(
            Step(number=n, text=f"Fit #{n} & wait.", image=f"steps/{n:02d}.png", alt=f"step [{n}]", warnings=("Mind!",))
            for n in (1, 2)
        ),
        closing="Done.",
    )  # fmt: skip
    pictures = [open_picture(picture_file(tmp_path / f"{n}.png")) for n in (1, 2)]
    save_guide(guide, pictures, tmp_path / "guide")
    found = load_examples(tmp_path / "guide")
    (example,) = found.examples
    assert found.colours == {"mauve"} and found.kinds == {"guides": 1}
    assert "1. Fit #1 & wait. Warning: Mind!\n<picture>\n2. " in answer(example)
    written = next((tmp_path / "guide").glob("*.md"))
    again, _ = from_markdown(written.read_text(encoding="utf-8"), "x", written.parent)
    assert again.messages[0] == example.messages[0]
    assert answer(again) == answer(example)


def test_a_rule_between_two_steps_ends_no_manual(tmp_path):
    """Only the last rule of an export, with the prompt below it, does."""
    picture_file(tmp_path / "a.png")
    steps = [f"{number}. Fit leg {number}.\n\n![]({name})\n" for number, name in ((1, "a.png"), (2, "a.png"))]
    ruled = "# Stand\n\nShort.\n\n## Steps\n\n" + "\n---\n\n".join(steps)
    plain, _ = from_markdown("# Stand\n\nShort.\n\n## Steps\n\n" + "\n".join(steps), "x", tmp_path)
    for text_of, asked in ((ruled, "Show me how to make: Stand"), (ruled + "\n---\nPrompt: Why?  \nSeed 3\n", "Why?")):
        example, _ = from_markdown(text_of, "x", tmp_path)
        assert answer(example) == answer(plain) and len(example.pictures) == 2
        assert example.messages[0]["content"] == [text(asked)]


def test_json_lines_keep_text_and_pictures_in_their_order(tmp_path):
    picture_file(tmp_path / "sub" / "a.png")
    rows_file(tmp_path / "data.jsonl", [row(text("see "), image("sub/a.png"), text(" there")), "", row(text("no"))])
    first, second = load_examples(tmp_path / "data.jsonl").examples
    assert first.place == "data.jsonl, line 1" and second.place == "data.jsonl, line 3"
    assert answer(first) == "see <picture> there"
    assert first.name() != second.name()
    assert first.name() == load_examples(tmp_path).examples[0].name()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{not json", "no JSON"),
        (json.dumps([1]), "a row is a list"),
        ({"messages": []}, "messages is empty"),
        (row(text("a")) | {"weight": 1}, "unknown key 'weight', expected messages"),
        ({"messages": [{"role": "user", "content": "Hello"}]}, "no assistant turn"),
        ({"messages": [{"role": "assistant", "content": "Hello"}]}, "begins with the user"),
        ({"messages": [{"role": "robot", "content": "Hello"}]}, "role 'robot'"),
        (row(text("a") | {"size": 3}), "unknown key 'size'"),
        (row({"type": "video", "path": "a"}), "type 'video'"),
        (row(image("missing.png")), "missing.png .*No such file"),
        (row(image("broken.png")), "broken.png"),
        (row(image("../outside.png")), "not below the folder"),
        (row(image("/etc/passwd")), "not below the folder"),
        (row(text("half \ud800")), "lone surrogate"),
        (row(image("half \ud800.png")), "is no name of a file"),
        (row(image("round")), "round"),
        (row(text("long " * 900_000)), "more than 4,194,304 bytes"),
    ],
)
def test_a_broken_row_is_named_with_its_file_and_line(tmp_path, bad, reason):
    folder = tmp_path / "data"
    folder.mkdir()
    picture_file(tmp_path / "outside.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "round").symlink_to(folder / "round")
    rows_file(folder / "rows.jsonl", [row(text("good")), bad, row(text("good too"))])
    found = load_examples(folder)
    assert len(found.examples) == 2
    (fault,) = found.faults
    assert fault.place == "rows.jsonl, line 2"
    with pytest.raises(UserError, match=f"rows.jsonl, line 2: .*{reason}"):
        found.check_whole()


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (("2. Lay", "3. Lay"), 19, "step 2"),
        (("![the legs](<{picture}>)\n", ""), 18, "the picture of step 1"),
        (("* 2 x {colour} leg", "* {colour} leg"), 11, "a counted part"),
        (("<{picture}>", "<../up.png>"), 17, "not below the folder"),
        (("colours:", "colour:"), 1, "unknown key 'colour'"),
        (("[{colour}]", "{colour}"), 1, "colours are 'red', expected a list of words"),
        (("[{colour}]", "[7]"), 1, "colours are [7]"),
        (("How do I build a {colour} stand?", "[how]"), 1, "prompt is ['how'], expected a sentence"),
        (("How do I build a {colour} stand?", "2024-02-30"), 1, "front matter that is no YAML"),
        (("How do I build a {colour} stand?", "[" * 9999), 1, "front matter that is no YAML"),
    ],
)
def test_a_broken_manual_is_named_with_the_line_of_the_file(tmp_path, change, line, reason):
    picture_file(tmp_path / "p.png")
    written = MANUAL.replace(*change).format(colour="red", title="A stand", picture="p.png")
    (tmp_path / "stand.md").write_text(written)
    (fault,) = load_examples(tmp_path).faults
    assert fault.place == f"stand.md, line {line}" and reason in fault.reason


def test_what_is_empty_or_too_little_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no .md, .jsonl or guide.json"):
        load_examples(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        load_examples(tmp_path / "nowhere")
    manual(tmp_path)
    with pytest.raises(UserError, match="found 1 example, expected at least 2"):
        load_examples(tmp_path).check_whole()
    (tmp_path / "latin.md").write_bytes("# Möbel".encode("latin-1"))
    assert "no UTF-8" in str(load_examples(tmp_path).faults[0])


def test_a_world_file_names_colours_and_what_is_said_outside(tmp_path):
    manual(tmp_path)
    (tmp_path / "world.json").write_text(json.dumps({"name": "Stands", "colours": ["Mauve"], "outside": "No."}))
    found = load_examples(tmp_path)
    assert (found.title, found.outside, found.colours) == ("Stands", "No.", {"mauve", "red"})
    (tmp_path / "world.json").write_text(json.dumps({"colors": []}))
    assert "'colors' is unknown" in str(load_examples(tmp_path).faults[0])
    for broken, reason in ((json.dumps({"name": "n" * 201}), "name"), ("[" * 100_000, "no JSON")):
        (tmp_path / "world.json").write_text(broken)
        (fault,) = load_examples(tmp_path).faults
        assert fault.place == "world.json" and reason in fault.reason


LLAVA = {
    "id": "7",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A stand."},
    ],
}


def test_llava_conversations_become_json_lines(tmp_path):
    picture_file(tmp_path / "a.png")
    source = tmp_path / "llava.json"
    source.write_text(json.dumps([LLAVA, LLAVA | {"image": ["a.png"]}]))
    assert convert_llava(source, tmp_path / "out.jsonl") == 2
    example, same = load_examples(tmp_path / "out.jsonl").examples
    assert [part["type"] for part in example.messages[0]["content"]] == ["image", "text"]
    assert example.messages[0]["content"][1] == text("What is this?")
    assert answer(example) == "A stand." and same.name() == example.name()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": ["a.png", "b.png"]}, "1 times <image> and 2 pictures"),
        ({"conversations": [{"from": "cat", "value": "Miaow"}]}, "turn 1 is from 'cat'"),
        ({"conversations": LLAVA["conversations"][:1]}, "no assistant turn"),
        ({"score": 1}, "unknown key 'score'"),
        ({"image": "../a.png"}, "not below the folder"),
        ({"image": 7}, "the pictures are a int"),
        ({"image": [7]}, "no path"),
        ({"images": ["b.png"]}, "both image and images"),
        ({"conversations": [{"from": ["human"], "value": "Hi"}]}, r"turn 1 is from \['human'\]"),
    ],
)
def test_broken_llava_rows_are_named_and_nothing_is_written(tmp_path, change, reason):
    (tmp_path / "llava.json").write_text(json.dumps([LLAVA, LLAVA | change]))
    with pytest.raises(UserError, match=f"row 2: .*{reason}"):
        convert_llava(tmp_path / "llava.json", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["llava.json"]


def test_examples_are_measured_without_their_pictures_and_encoded_once(base, tmp_path):
    manual(tmp_path, "one", "red")
    manual(tmp_path, "two", "blue")
    examples = load_examples(tmp_path).examples
    cache = open_cache(tmp_path / "cache", base, processor(base))
    first = encode_examples(examples, base, processor(base), cache)
    for example, stream in zip(examples, first, strict=True):
        rows, size = parse(stream, base.config), measure(example, processor(base))
        assert (size.text, size.pictures, size.positions) == (len(rows.text_ids), len(rows.codes), rows.length)
    # The second time nothing is computed: without an image tokenizer it would fail.
    blind = model()
    blind.image_tokenizer.encoder.forward = None
    again = encode_examples(examples, blind, processor(blind), open_cache(tmp_path / "cache", base, processor(base)))
    assert [one.fingerprint() for one in again] == [one.fingerprint() for one in first]
    assert open_cache(tmp_path / "cache", model(seed=1), processor(base)).folder != cache.folder
    seen = shown(first[0], processor(base))
    assert seen.count("[picture of 21 codes]") == 2 and "⟦# A red stand" in seen and seen.count("⟦") == 1


def test_an_example_longer_than_the_context_is_named_with_what_it_takes(base, tmp_path):
    rows_file(tmp_path / "rows.jsonl", [row(text("short")), row(text("long " * 5000))])
    (fault,) = misfits(load_examples(tmp_path).examples, processor(base))
    assert fault.place == "rows.jsonl, line 2" and "the model has 4,096" in fault.reason


def test_an_answer_that_looks_like_a_guide_and_is_none_is_noted(tmp_path):
    rows_file(tmp_path / "rows.jsonl", [row(text("# A title\n\nand prose")), row(text("plain"))])
    first, second = load_examples(tmp_path).examples
    assert "is none" in next(iter(oddities(first))) and not list(oddities(second))


def test_the_split_depends_on_names_alone_and_never_shares_an_example():
    names = [f"n{index:03d}" for index in range(40)] + ["n000"]
    learnt, tested = split(names, 0.1)
    assert len(learnt) + len(tested) == 41
    assert not {names[i] for i in learnt} & {names[i] for i in tested}
    turned = names[::-1]
    assert {turned[i] for i in split(turned, 0.1)[1]} == {names[i] for i in tested}
    assert [len(side) for side in split(["a", "b"], 0.9)] == [1, 1]
    for few in (["a"], ["a", "a"]):
        with pytest.raises(UserError, match="at least 2"):
            split(few, 0.1)


def test_half_of_what_is_rehearsed_are_illustrated_guides(tmp_path):
    """They keep the base's own style where an adapter's examples are guides."""
    base = model()
    cache = open_cache(tmp_path / "cache", base, processor(base))
    known = rehearsal(6, 0, base, processor(base), cache)
    whole = [shown(one, processor(base)) for one in known]
    guides = [index for index, text in enumerate(whole) if "## Steps" in text and text.count("picture of") > 1]
    assert {0, 2, 4} <= set(guides) and len(guides) <= 4
    again = rehearsal(6, 0, base, processor(base), cache)
    assert [one.fingerprint() for one in again] == [one.fingerprint() for one in known]
