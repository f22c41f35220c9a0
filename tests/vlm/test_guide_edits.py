"""Guides that change: one step drawn anew, its words edited, all of it in green; and how that is told and replayed."""

from __future__ import annotations

import json
import threading
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import pytest
from agent_fixtures import GREEN, GUIDE, pixels, script, tiny_agent
from PIL import Image

from vlm.agent import ChatAgent
from vlm.backbone import Speaker
from vlm.chat import ChatSession
from vlm.errors import GuideError, OutOfWorld, UserError
from vlm.events import Finished, ImageDone, ImagePreview, ImageStarted
from vlm.generate import decode_picture
from vlm.guide import PICTURE
from vlm.guide_edits import EditableGuide
from vlm.png import read_origin
from vlm.record import Record
from vlm.stream import parse

PROMPT = "How do I assemble a red stool?"


@pytest.fixture
def made(monkeypatch):
    """A guide of two steps."""
    script(monkeypatch, GUIDE)
    return tiny_agent().guide(PROMPT, previews=False, code_temperature=1.0)


def test_a_guide_is_read_from_its_stream(made):
    guide = made.guide
    assert (guide.title, guide.prompt, guide.seed, guide.model) == ("Red stool", PROMPT, 5, "0" * 16)
    assert [step.text for step in guide.steps] == ["Attach leg 1.", "Attach leg 2."]
    assert len(made.pictures) == 2 and made.pictures[0].size == (32, 32)


@pytest.mark.parametrize("step", [1, 2])
def test_a_step_is_redrawn_and_the_others_stay_to_the_byte(made, step: int):
    before, text = pixels(made.pictures), made.guide
    stream = made.session.turns[0].answer
    new = made.redraw(step)
    after = pixels(made.pictures)
    assert made.guide == text and new.tobytes() == after[step - 1]
    assert [a == b for a, b in zip(before, after, strict=True)] == [step != 1, step != 2]
    changed = made.session.turns[0].answer
    parse(changed, made.session.backbone.model.config)
    assert changed.ids.shape == stream.ids.shape and changed.assistant.all()
    assert made.session.turns[0].guide


def test_a_seed_fixes_what_is_redrawn(made):
    seventh = made.redraw(1, seed=7).tobytes()
    assert made.redraw(1, seed=8).tobytes() != seventh
    assert made.redraw(1, seed=7).tobytes() == seventh


def test_without_a_seed_each_drawing_is_another(made):
    drawn = [made.redraw(2).tobytes() for _ in range(3)]
    assert len({*drawn, *pixels(made.pictures)[:1]}) == 4
    assert [action.seed for action in made.session.actions] == [None, 6, 7, 8]


def test_redrawing_sees_what_comes_before_it_and_nothing_after(made, monkeypatch):
    first = made.redraw(1, seed=9).tobytes()
    script(monkeypatch, GUIDE.replace("leg 2.\n", "leg 12 twice.\n"))
    other = tiny_agent().guide(PROMPT, previews=False, code_temperature=1.0)
    assert other.redraw(1, seed=9).tobytes() == first
    assert other.redraw(2, seed=9).tobytes() != made.redraw(2, seed=9).tobytes()


def test_the_text_of_a_step_is_edited_and_its_picture_drawn_from_it(made, monkeypatch):
    before = pixels(made.pictures)
    drawn = made.edit_step(2, "Attach leg 12 twice.", seed=9)
    assert [step.text for step in made.guide.steps] == ["Attach leg 1.", "Attach leg 12 twice."]
    assert pixels(made.pictures) == [before[0], drawn.tobytes()] and drawn.tobytes() != before[1]
    # The same as if the model had written this text itself.
    script(monkeypatch, GUIDE.replace("Attach leg 2.", "Attach leg 12 twice."))
    other = tiny_agent().guide(PROMPT, previews=False, code_temperature=1.0)
    assert other.redraw(2, seed=9).tobytes() == drawn.tobytes()
    assert other.session.turns[0].answer.fingerprint() == made.session.turns[0].answer.fingerprint()


def test_the_conversation_goes_on_from_the_changed_guide(made, monkeypatch):
    made.edit_step(1, "Attach leg 12.")
    script(monkeypatch, "Yes.")
    finished = [event for event in made.session.reply("Thanks") if isinstance(event, Finished)][0]
    messages = made.session.backbone.processor.decode(finished.conversation)
    text = "".join(part.get("text", "") for part in messages[1]["content"])
    assert "1. Attach leg 12." in text and "1. Attach leg 1." not in text
    shown = [decode_picture(made.session.backbone.model, p["tokens"]) for p in messages[1]["content"] if "tokens" in p]
    assert pixels(shown) == pixels(made.pictures)


def test_all_of_a_guide_changes_in_one_conversation(made, monkeypatch):
    script(monkeypatch, GREEN)
    made.redraw(1)
    guide = made.change("in green")
    assert guide.title == "Green stool" and made.turn == 1 and guide is made.guide
    assert made.session.turns[1].message == ("The same in green.",)
    assert made.session.turns[1].options.seed == 7
    made.redraw(2)
    assert EditableGuide(made.session, 0).guide.title == "Red stool"
    made.change("Make it green, please!")
    assert made.session.turns[2].message == ("Make it green, please!",)


def test_a_guide_is_changed_and_gone_on_with_by_the_adapter_that_wrote_it(monkeypatch):
    script(monkeypatch, GUIDE, GREEN, "Nothing comes next: it is finished.")
    agent, used = tiny_agent(), []

    def use(model, name):
        used.append(name)
        return nullcontext()

    session = ChatSession(replace(agent.backbone, use_adapter=use))
    list(session.reply("A stool?", adapter="stands"))
    guide = EditableGuide(session, 0)
    guide.change("in green")
    guide.continue_from(Image.new("RGB", (32, 32)))
    assert used == ["stands"] * 3 and [turn.adapter for turn in session.turns] == ["stands"] * 3


def test_a_change_that_gives_no_guide_is_taken_back(made, monkeypatch):
    script(monkeypatch, "I know furniture only.")
    with pytest.raises(OutOfWorld) as told:
        made.change("in German")
    assert told.value.answer == "I know furniture only."
    assert made.turn == 0 and len(made.session.turns) == 1 and made.guide.title == "Red stool"


def test_the_next_step_is_asked_for_with_a_picture(made, monkeypatch):
    script(monkeypatch, f"2. Attach leg 2.\n{PICTURE}", "Nothing comes next: it is finished.")
    photo = Image.new("RGBA", (30, 60), (200, 0, 0, 255)).convert("RGB")
    step = made.continue_from(photo)
    assert (step.number, step.text) == (2, "2. Attach leg 2.") and step.picture.size == (32, 32)
    assert made.session.turns[1].message[1] == "What comes next?"
    last = tiny_agent().continue_from(photo, "a red stool.")
    assert (last.number, last.picture) == (None, None) and "finished" in last.text


def test_the_record_tells_what_was_redrawn_and_replays_to_the_byte(made, monkeypatch):
    script(monkeypatch, GREEN)
    made.redraw(2, seed=30)
    made.edit_step(1, "Attach leg 12.", seed=31)
    made.change("in green")
    made.redraw(1)
    record = Record.from_json(made.record.to_json())
    assert [(action.do, action.turn, action.step, action.seed, action.text) for action in record.actions] == [
        ("answer", 0, None, None, None),
        ("redraw", 0, 2, 30, None),
        ("edit", 0, 1, 31, "Attach leg 12."),
        ("answer", 1, None, None, None),
        ("redraw", 1, 1, 33, None),
    ]
    script(monkeypatch, GUIDE, GREEN)
    seen = []
    again = tiny_agent().replay(record, seen.append)
    assert [turn.stream.fingerprint() for turn in again.turns] == [
        turn.stream.fingerprint() for turn in made.session.turns
    ]
    assert sum(isinstance(event, Finished) for event in seen) == 5
    assert EditableGuide(again, 1).guide == made.guide


def test_a_step_is_drawn_with_other_settings_and_the_record_tells_them(made, monkeypatch):
    greedy = {"code_temperature": (0.0,) * len(made.session.backbone.model.config.scales), "residual_temperature": 0.0}
    seventh = made.redraw(1, seed=7, **greedy).tobytes()
    assert made.redraw(1, seed=7, code_temperature=1.5).tobytes() != seventh
    assert made.redraw(1, seed=7, residual_steps=3, **greedy).tobytes() != seventh
    assert made.edit_step(1, "Attach leg 1.", seed=7, **greedy).tobytes() == seventh
    script(monkeypatch, GUIDE)
    again = tiny_agent().replay(Record.from_json(made.record.to_json()))
    assert [turn.stream.fingerprint() for turn in again.turns] == [
        turn.stream.fingerprint() for turn in made.session.turns
    ]
    before = pixels(made.pictures)
    with pytest.raises(ValueError, match="unknown setting 'colour'"):
        made.redraw(1, colour=3)
    with pytest.raises(ValueError, match="guidance of at least 0"):
        made.redraw(1, guidance=-1.0)
    assert pixels(made.pictures) == before


def test_a_record_on_another_precision_is_told(made, caplog):
    told = json.loads(made.record.to_json())
    assert (told["device"], told["dtype"]) == ("cpu", "float32")
    tiny_agent().replay(Record.from_json(json.dumps(told)))
    assert not caplog.records
    tiny_agent().replay(Record.from_json(json.dumps(told | {"dtype": "bfloat16"})))
    assert "bfloat16" in caplog.text and "nearly the same" in caplog.text


def adapted(outside: str | None = None, known_by: str = "0+stand"):
    """An agent with an adapter that changes no weight and knows a colour more."""
    agent = tiny_agent()
    speaker = Speaker(known_by, ("red", "mauve"), outside)
    return ChatAgent(
        replace(agent.backbone, use_adapter=lambda model, name: nullcontext(), speaker_of=lambda name: speaker), seed=5
    )


def test_a_guide_in_an_adapters_world(monkeypatch):
    script(monkeypatch, GUIDE.replace("2 x red leg", "2 x mauve leg"))
    made = adapted().guide(PROMPT, adapter="stand", previews=False)
    assert (made.guide.parts[0].colour, made.guide.model) == ("mauve", "0+stand")
    assert made.session.turns[0].guide
    seventh = made.redraw(1, seed=7).tobytes()
    record = Record.from_json(made.record.to_json())
    again = EditableGuide(adapted().replay(record), 0)
    assert again.pictures[0].tobytes() == seventh
    with pytest.raises(UserError, match=r"turn 1 was drawn by 0\+stand, .* makes 0\+other; load the adapter"):
        adapted(known_by="0+other").replay(record)
    with pytest.raises(UserError, match="load the adapter that drew it"):
        tiny_agent().replay(record)


def test_an_adapter_has_its_own_words_for_what_is_outside_its_world(monkeypatch):
    script(monkeypatch, "I cannot help.")
    for agent, name, words in (
        (adapted("I only know stands."), "stand", "I only know stands."),
        (adapted("I only know stands."), None, "I cannot help."),
        (adapted(), "stand", "I cannot help."),
    ):
        for asked in (agent.guide, agent.draw):
            with pytest.raises(OutOfWorld) as caught:
                asked("Hello", adapter=name)
            assert caught.value.answer == words


def test_a_record_is_refused_where_it_cannot_come_out_the_same(made):
    record = made.record
    with pytest.raises(UserError, match="load the model that drew it"):
        tiny_agent(seed=1).replay(record)
    with pytest.raises(UserError, match="positions of context"):
        tiny_agent(context=600).replay(record)
    wrong = json.loads(record.to_json())
    for changes, told in (
        ({"version": 2}, "version 1: version"),
        ({"turns": [{**wrong["turns"][0], "reason": "cancelled"}]}, "turn 1 was stopped by hand"),
        ({"turns": [{**wrong["turns"][0], "options": {"sede": 1}}]}, "settings do not fit"),
        ({"turns": [{**wrong["turns"][0], "message": [{"png": "%"}]}]}, "no base64"),
        ({"actions": [{"do": "answer", "turn": 1}]}, "does not fit"),
        ({"actions": [{"do": "redraw", "turn": 0, "step": 1, "seed": 1}]}, "does not fit"),
        ({"actions": [{"do": "redraw", "turn": 0}]}, "does not fit"),
        ({"actions": [{"do": "paint", "turn": 0}]}, "version 1: actions.0.do"),
    ):
        with pytest.raises(UserError, match=told):
            tiny_agent().replay(Record.from_json(json.dumps(wrong | changes)))


@pytest.mark.parametrize("at", range(5))
def test_a_cancelled_drawing_leaves_the_guide_as_it_was(made, at: int):
    before, cancel = made.session.turns[0].answer.fingerprint(), threading.Event()
    events = made.redrawing(1, cancel=cancel)
    seen = [next(events) for _ in range(at)]
    cancel.set()
    seen += list(events)
    assert [type(event) for event in seen[:1]] == [ImageStarted] and seen[-1].reason == "cancelled"
    assert not any(isinstance(event, ImageDone) for event in seen) or at == 4
    assert made.session.turns[0].answer.fingerprint() == before and len(made.session.actions) == 1
    with pytest.raises(GuideError, match="as it was before"):
        made.redraw(1, cancel=cancel)
    made.redraw(1)


def test_drawing_a_step_is_seen_scale_by_scale(made):
    seen = []
    made.edit_step(2, "Attach leg 3.", on_event=seen.append)
    assert [type(event) for event in seen] == [ImageStarted, *[ImagePreview] * 3, ImageDone, Finished]
    assert {event.index for event in seen[:-1]} == {1}


@pytest.mark.parametrize(
    ("step", "text", "told"),
    [
        (0, None, "steps 1 to 2, got 0"),
        (3, None, "steps 1 to 2, got 3"),
        (1, "two\nlines", "expected one; join"),
        (1, " ", "the prompt is empty"),
        (1, "x" * 2001, "at most 2,000"),
    ],
)
def test_what_cannot_be_drawn_is_refused(made, step: int, text: str | None, told: str):
    with pytest.raises(UserError, match=told):
        list(made.redrawing(step, text=text))
    assert len(made.session.actions) == 1


def test_an_answer_that_is_no_guide_has_no_steps(monkeypatch):
    script(monkeypatch, f"Here.\n{PICTURE}")
    agent = tiny_agent()
    with pytest.raises((OutOfWorld, GuideError)):
        agent.guide("Who won?")
    session = agent.session()
    list(session.reply("Draw a red stool."))
    with pytest.raises(GuideError):
        EditableGuide(session, 0)


def test_a_cut_off_guide_is_told(monkeypatch):
    script(monkeypatch, GUIDE)
    with pytest.raises(GuideError, match="ended early"):
        tiny_agent().guide(PROMPT, max_new_tokens=9)


def test_a_guide_is_saved_with_its_record(made, tmp_path):
    made.redraw(1, seed=77)
    made.save(tmp_path / "stool")
    assert (tmp_path / "stool" / "guide.html").is_file()
    record = Record.from_json((tmp_path / "stool" / "replay.json").read_bytes())
    assert [action.seed for action in record.actions] == [None, 77]
    origins = [read_origin(tmp_path / "stool" / step.image) for step in made.guide.steps]
    assert [origin.seed for origin in origins] == [77, 5]
    with zipfile.ZipFile(made.save(tmp_path / "stool.zip")) as archive:
        assert archive.read("replay.json") == (tmp_path / "stool" / "replay.json").read_bytes()


def test_drawing_and_asking(monkeypatch, tmp_path):
    script(monkeypatch, f"Here is a red stool.\n{PICTURE}\n", "This is step 2.")
    agent = tiny_agent()
    drawing = agent.draw("a red stool", seed=3)
    assert (drawing.text, drawing.prompt, drawing.seed, drawing.model) == (
        "Here is a red stool.", "a red stool", 3, "0" * 16
    )  # fmt: skip
    assert agent.ask(drawing.image, "Which step is this?") == "This is step 2."
    drawing.image.save(tmp_path / "photo.png")
    assert agent.ask(str(tmp_path / "photo.png"), "Which step is this?") == "This is step 2."
    with pytest.raises(UserError, match="none.png"):
        agent.ask("none.png", "Which step is this?")
    with pytest.raises(OutOfWorld, match="outside"):
        agent.draw("a song")
    with pytest.raises(UserError, match="no picture"):
        agent.ask(None, "Which step is this?")
