"""Guides: what is valid, the round trip, and the parser of the model's form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.guides import COLOURS, STOOL, events, pictures, stool
from vlm.errors import GuideError, OutOfWorld, UserError
from vlm.export import save_guide
from vlm.guide import PICTURE, Guide, parse_guide
from vlm.prompt import MAX_PROMPT, check_prompt
from vlm.reading import read_guide


def test_parser_reads_the_models_form():
    draft = parse_guide(STOOL, COLOURS)
    assert (draft.title, draft.description, draft.closing) == (
        "Blue stool",
        "A small stool.",
        "Your stool is ready.",
    )
    assert [(part.count, part.name, part.colour) for part in draft.parts] == [
        (1, "round blue seat", "blue"),
        (3, "turned red leg", "red"),
    ]
    assert [(tool.name, tool.count) for tool in draft.tools] == [("screwdriver", None), ("screw", 6)]
    assert [step.text for step in draft.steps] == [
        "Lay the seat on a cloth.",
        "Fit 2 turned red legs.",
        "Fit the last leg.",
    ]
    assert draft.steps[1].warnings == ("Mind your fingers.",)
    assert [step.parts_added for step in draft.steps] == [
        ("round blue seat",),
        ("turned red leg",),
        ("turned red leg",),
    ]


def test_a_used_up_part_is_not_added_again():
    text = STOOL.replace("3. Fit the last leg.", "3. Fit the last leg to the seat.")
    assert parse_guide(text).steps[2].parts_added == ("turned red leg",)


@pytest.mark.parametrize(
    ("old", "new", "line", "wanted"),
    [
        ("# Blue stool", "Blue stool", 1, "a title"),
        ("## Parts\n", "", 4, "## Parts"),
        ("- 3 x turned red leg", "- some legs", 6, "a counted part"),
        ("- 3 x turned red leg", "- 0 x turned red leg", 6, "a counted part"),
        ("## Steps", "## Stepps", 12, "## Steps"),
        ("2. Fit", "3. Fit", 15, "step 2"),
        (f"{PICTURE}\n2.", "2.", 14, "the picture of step 1"),
        (f"{PICTURE}\nYour", "Your", 20, "the picture of step 3"),
        ("Your stool", f"{PICTURE}\nYour stool", 20, "a closing line"),
        ("Your stool is ready.", "4) The end.\n9. Fit.", 21, "step 4"),
    ],
)
def test_parser_names_the_line(old: str, new: str, line: int, wanted: str):
    with pytest.raises(GuideError, match=rf"line {line}\b.*{wanted}"):
        parse_guide(STOOL.replace(old, new, 1))


@pytest.mark.parametrize(
    "text", ["", "   \n", "# ", "# T", "# T\n## Parts", "# T\n## Parts\n- 1 x a\n## Steps\n"]
)
def test_parser_refuses_a_fragment(text: str):
    with pytest.raises(GuideError, match=r"line \d+"):
        parse_guide(text)


@given(st.text(max_size=300))
def test_parser_raises_nothing_but_guide_error(text: str):
    try:
        parse_guide("# T\n## Parts\n- 1 x a\n## Steps\n1. b\n" + text, COLOURS)
    except GuideError:
        pass


def test_json_round_trip_gives_the_same_bytes():
    text = stool().to_json()
    assert Guide.model_validate_json(text) == stool()
    assert Guide.model_validate_json(text).to_json() == text
    assert json.loads(text)["steps"][0]["image"] == "steps/01.png"


@pytest.mark.parametrize(
    "image",
    [
        "/etc/passwd", "/etc/x.png", "../01.png", "steps/../../x.png", "C:\\x.png", "http://x/1.png", "", ".png",
        "a\0.png", "a\n.png", "<a>.png", "a.png/b.png", "guide.json/b.png", "guide.json", "~/.png", "./a.png",
        ".hidden/a.png", "steps//a.png", "steps/", "x" * 300 + ".png",
    ],  # fmt: skip
)
def test_a_picture_stays_in_the_guides_folder(image: str):
    steps = [step.model_dump() for step in stool().steps]
    steps[0]["image"] = image
    with pytest.raises(ValidationError):
        stool(steps=steps)


def test_steps_are_numbered_in_order_and_have_a_picture_each():
    steps = [step.model_dump() for step in stool().steps]
    with pytest.raises(ValidationError, match="expected 1 to 3 in order"):
        stool(steps=steps[::-1])
    with pytest.raises(ValidationError, match="share one image"):
        stool(steps=[step | {"image": "a.png"} for step in steps])
    with pytest.raises(ValidationError, match="share one image"):
        stool(steps=[steps[0] | {"image": "a.png"}, steps[1] | {"image": "A.PNG"}, steps[2]])
    for wrong in ({"steps": ()}, {"title": " "}, {"more": 1}, {"seed": 2**64}, {"title": "x" * 4001}):
        with pytest.raises(ValidationError):
            stool(**wrong)


def test_lists_of_parts_and_tools_may_be_empty():
    bare = stool(parts=(), tools=())
    assert Guide.model_validate_json(bare.to_json()) == bare
    without = STOOL[: STOOL.index("## Parts")] + STOOL[STOOL.index("## Steps") :]
    draft = parse_guide(without, COLOURS)
    assert (draft.parts, draft.tools) == ((), ()) and len(draft.steps) == 3
    assert draft.steps[0].parts_added == ()
    tools_only = STOOL[: STOOL.index("## Parts")] + STOOL[STOOL.index("## Tools") :]
    assert [tool.name for tool in parse_guide(tools_only).tools] == ["screwdriver", "screw"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("round blue seat", "x" * 4001), ("- screwdriver", "- " + "x" * 4001), ("6 x screw", "6 x " + "y" * 4001)],
)
def test_what_is_too_long_is_named_by_its_line(old: str, new: str):
    with pytest.raises(GuideError, match=r"line \d+: got .*at most 4000 characters"):
        parse_guide(STOOL.replace(old, new))


def test_load_proves_the_pictures(tmp_path):
    save_guide(stool(), pictures(), tmp_path / "g")
    assert Guide.load(tmp_path / "g") == Guide.load(tmp_path / "g" / "guide.json") == stool()

    picture = tmp_path / "g" / "steps" / "02.png"
    whole = picture.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"GIF89a", b""):
        picture.write_bytes(damaged)
        with pytest.raises(UserError, match="02.png is no readable PNG"):
            Guide.load(tmp_path / "g")
    picture.unlink()
    with pytest.raises(UserError, match="02.png is missing"):
        Guide.load(tmp_path / "g")
    (tmp_path / "outside.png").write_bytes(whole)
    picture.symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match="leads out of"):
        Guide.load(tmp_path / "g")


def test_load_opens_no_device_and_no_mountain(tmp_path):
    (tmp_path / "guide.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is no file of at most"):
        Guide.load(tmp_path)
    (tmp_path / "guide.json").unlink()
    with (tmp_path / "guide.json").open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(UserError, match="is no file of at most"):
        Guide.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\x00\xff", '{"title": "T"}'])
def test_load_refuses_what_is_no_guide(tmp_path, content: str):
    path = tmp_path / "guide.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="no valid guide"):
        Guide.load(path)
    with pytest.raises(UserError, match="cannot read"):
        Guide.load(tmp_path / "nothing.json")


def test_a_stream_of_events_becomes_a_guide():
    seen: list[object] = []
    drawn = read_guide(
        events(), prompt="a blue stool?", seed=7, fingerprint="0123456789abcdef", on_event=seen.append
    )
    assert drawn.guide == stool()
    assert [picture.getpixel((0, 0))[0] for picture in drawn.pictures] == [50, 100, 150]
    assert len(seen) == len(list(events()))


def test_words_alone_are_out_of_world():
    with pytest.raises(OutOfWorld) as caught:
        read_guide(events("I know furniture only."), prompt="p", seed=0, fingerprint="f")
    assert caught.value.answer == "I know furniture only."
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "stream",
    [
        list(events(reason="cancelled")),
        list(events(reason="length")),
        list(events())[:-1],
        list(events("# Title only")),
        list(events("Some words.\n" + PICTURE)),
    ],
)
def test_a_broken_stream_is_no_guide(stream):
    with pytest.raises(GuideError):
        read_guide(stream, prompt="p", seed=0, fingerprint="f")


def test_a_picture_mark_that_the_model_spells_is_no_picture():
    text_only = [event for event in events() if type(event).__name__ in ("TextDelta", "Finished")]
    assert any(PICTURE in str(event) for event in text_only) is False
    forged = list(events())
    forged[0] = type(forged[0])(PICTURE + "# ")
    with pytest.raises(GuideError, match="a title"):
        read_guide(forged, prompt="p", seed=0, fingerprint="f")


def test_prompts_are_checked():
    assert check_prompt("  a <|boi|> stool \n") == "a <|boi|> stool"
    assert check_prompt("ü" * MAX_PROMPT) == "ü" * MAX_PROMPT
    for prompt, message in {
        "": "empty",
        " \n": "empty",
        "x" * (MAX_PROMPT + 1): "2,001 characters",
        "x" * 1_000_000: "1,000,000 characters",
        "a\0b": r"control character U\+0000",
        "\x1b[2J": r"control character U\+001B",
        "caf\udce9": "UTF-8",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            check_prompt(prompt)
        assert "\n" not in str(caught.value)
