"""A guide that can still be changed: a step redrawn or reworded, an attribute of all of it, the next step from a photo.

Knows where a guide's steps stand in their stream. Every change is also an action of the session, so the replay record
says which steps were redrawn or edited, and with what seeds.

A step is drawn anew from the stream before it, which is kept to the id: the prompt, the steps before with their
pictures, and its own text. The steps after it stay as they are.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from hart.tokens import HybridTokens
from vlm.chat import ChatSession, Turn
from vlm.errors import GuideError, OutOfWorld, UserError
from vlm.events import Event, Events, Finished, ImageDone
from vlm.generate import picture_events
from vlm.guide import Guide
from vlm.message import Message, check_picture, message_text
from vlm.processor import StreamProcessor
from vlm.prompt import check_prompt
from vlm.reading import DrawnGuide, guide_from, marked_text
from vlm.record import RECORD_FILE, Action, Record, record_of
from vlm.sampling import GenerationOptions
from vlm.stream import Conversation, parse, span_ids, written

OnEvent = Callable[[Event], None]
NEXT_QUESTION = "What comes next?"


@dataclass(frozen=True)
class NextStep:
    """What comes next: the answer's text, the number of the step if it names one, its picture if it was drawn."""

    text: str
    number: int | None
    picture: Image.Image | None


class EditableGuide:
    """The guide in one turn of a session. Holds no state of its own but that turn's number.

    Raises `GuideError` (or `OutOfWorld`, which holds the answer) when made for a turn whose answer is no whole guide.
    """

    def __init__(self, session: ChatSession, turn: int) -> None:
        self.session = session
        self.turn = turn
        self.drawn = drawn_guide(session, turn)

    @property
    def guide(self) -> Guide:
        """The document."""
        return self.drawn.guide

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The steps' pictures."""
        return self.drawn.pictures

    def redraw(
        self,
        step: int,
        seed: int | None = None,
        *,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> Image.Image:
        """Draw the picture of `step` (from 1) anew; the other steps stay. Returns the new picture.

        seed: one more than any used for this guide before, unless told. changes: as for `redraw_step`. Raises
        `UserError` on a step that the guide lacks, `GuideError` when cancelled (the guide is then as before).
        """
        return self._run(self.redrawing(step, seed, cancel=cancel, **changes), step, on_event)

    def edit_step(
        self,
        step: int,
        text: str,
        seed: int | None = None,
        *,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> Image.Image:
        """Give `step` another text, one line, and draw its picture anew from it; otherwise as `redraw`."""
        return self._run(self.redrawing(step, seed, text, cancel=cancel, **changes), step, on_event)

    def redrawing(
        self,
        step: int,
        seed: int | None = None,
        text: str | None = None,
        *,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> Events:
        """The events of `redraw` (of `edit_step` with a text), `Finished` the last; the guide has changed by then."""
        events = redraw_step(self.session, self.turn, step, text=text, seed=seed, cancel=cancel, **changes)

        def watched() -> Events:
            with closing(events):
                for event in events:
                    if isinstance(event, Finished) and event.reason == "stop":
                        self.drawn = drawn_guide(self.session, self.turn)
                    yield event

        return watched()

    def change(
        self,
        what: str,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> Guide:
        """Change the whole guide: "in green", "with four legs", or a sentence of one's own. Returns the new guide.

        The model, with the adapter that the guide was written with, writes and draws it anew, as the next turn of the
        conversation, and this object shows that one from
        then on. When no guide comes of it, the turn is taken back and `OutOfWorld` or `GuideError` is raised.
        """
        what = check_prompt(what)
        asked = f"The same {what.rstrip('.')}." if re.match(r"(?i)(in|with|without)\b", what) else what
        self._ask(asked, seed, on_event, cancel)
        turn = len(self.session.turns) - 1
        try:
            self.drawn = drawn_guide(self.session, turn)
        except (GuideError, OutOfWorld):
            self.session.undo()
            raise
        self.turn = turn
        return self.guide

    def continue_from(
        self,
        picture: Any,
        question: str = NEXT_QUESTION,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> NextStep:
        """What comes next for the half-built product in `picture` (a PIL image, a path or bytes), asked in this
        conversation. Raises `UserError` on an unreadable picture."""
        sent = check_picture(picture, self.session.backbone.processor.background)
        self._ask([sent, question], seed, on_event, cancel)
        return next_step(self.session, len(self.session.turns) - 1)

    def save(self, target: Path | str, **options: Any) -> Path:
        """Write the guide, see `vlm.export.save_guide` for `options`; return the path that it returns.

        A folder or a zip gets the replay record too, and each picture's metadata the seed it was drawn with.
        """
        return self.drawn.save(target, seeds=self.seeds, beside=self.beside, **options)

    @property
    def seeds(self) -> tuple[int, ...]:
        """What each step's picture was drawn with: the answer's seed, or that of its last redrawing."""
        found = [self.session.turns[self.turn].options.seed] * len(self.guide.steps)
        for action in self.session.actions:
            if action.turn == self.turn and action.step is not None and action.seed is not None:
                found[action.step - 1] = action.seed
        return tuple(found)

    @property
    def beside(self) -> dict[str, str]:
        """The file that goes with the guide's own in a folder or a zip: its replay record."""
        return {RECORD_FILE: self.record.to_json()}

    @property
    def record(self) -> Record:
        """How to make this guide again, see `vlm.replay`: what was asked, redrawn and edited, with which seeds."""
        return record_of(self.session)

    def _ask(
        self, message: Message, seed: int | None, on_event: OnEvent | None, cancel: threading.Event | None
    ) -> None:
        guide = self.session.turns[self.turn]
        options = replace(guide.options, seed=next_seed(self.session, self.turn) if seed is None else seed)
        with closing(self.session.reply(message, options, adapter=guide.adapter, cancel=cancel)) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)

    def _run(self, running: Events, step: int, on_event: OnEvent | None) -> Image.Image:
        with closing(running) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Finished) and event.reason != "stop":
                    raise GuideError(f"the drawing of step {step} was {event.reason}; the guide is as it was before")
        return self.pictures[step - 1]


def drawn_guide(session: ChatSession, turn: int) -> DrawnGuide:
    """The guide in a turn, its pictures decoded. Raises `GuideError` and `OutOfWorld`."""
    asked = session.turns[turn]
    if asked.reason != "stop":
        raise GuideError(f"the answer ended early ({asked.reason}), expected a whole guide")
    parts = session.answer_parts(asked)
    prompt = message_text(asked.message) or "a picture"
    by = session.backbone.speaker(asked.adapter)
    try:
        guide = guide_from(
            parts,
            prompt=prompt,
            seed=asked.options.seed,
            fingerprint=asked.speaker or by.fingerprint,
            colours=by.colours,
        )
    except OutOfWorld as error:
        raise OutOfWorld(by.outside or error.answer) from error
    return DrawnGuide(guide, tuple(part["image"] for part in parts if part["type"] == "image"))


def next_step(session: ChatSession, turn: int) -> NextStep:
    """The answer of a turn, read as the step that comes next."""
    parts = session.answer_parts(session.turns[turn])
    text = marked_text([part for part in parts if part["type"] == "text"])
    number = re.match(r"(\d{1,3})\. ", text)
    pictures = [part["image"] for part in parts if part["type"] == "image"]
    return NextStep(text, int(number[1]) if number else None, pictures[0] if pictures else None)


def next_seed(session: ChatSession, turn: int) -> int:
    """One more than every seed used in a turn and for its steps."""
    used = [session.turns[turn].options.seed]
    used += [action.seed for action in session.actions if action.turn == turn and action.seed is not None]
    return (max(used) + 1) % 2**63


def redraw_step(
    session: ChatSession,
    turn: int,
    step: int,
    *,
    text: str | None = None,
    seed: int | None = None,
    cancel: threading.Event | None = None,
    **changes: Any,
) -> Events:
    """Draw the picture of one step (from 1) of the guide in a turn anew, from another text if one is given.

    changes: fields of `GenerationOptions` by name (guidance=2.0, code_temperature=0) where the picture is to be drawn
    with other settings than the guide was; its adapter stays, as the other steps have it. Yields the events of that
    picture and `Finished`; with reason "cancelled" nothing has changed. Raises `UserError` on a step that is not there
    or a text of more than one line, ValueError on bad settings, before any event.
    """
    asked = session.turns[turn]
    place = step_place(asked, session.backbone.processor, step)
    if text is not None:
        text = check_prompt(text)
        if "\n" in text or "\r" in text:
            raise UserError(f"the text of step {step} has several lines, expected one; join them")
    chosen = next_seed(session, turn) if seed is None else seed
    options = session.options(asked.options, {**changes, "seed": chosen})
    do: Literal["redraw", "edit"] = "redraw" if text is None else "edit"
    action = Action(do=do, turn=turn, step=step, seed=chosen, text=text, settings=changes or None)
    return session.running(_redraw(session, action, place, options, cancel or threading.Event()))


@dataclass(frozen=True)
class StepPlace:
    """Where a step stands in the ids of an answer: its line begins at `line`, its span at `span`, both end before
    `end`; `picture` is the number of the span, from 0."""

    step: int
    line: int
    span: int
    end: int
    picture: int


def step_place(turn: Turn, processor: StreamProcessor, step: int) -> StepPlace:
    """The place of a step (from 1) in a turn's guide. Raises `UserError` if there is none."""
    config = processor.config
    spans = (turn.answer.ids == config.boi_id).nonzero().flatten().tolist()
    if not turn.guide:
        raise UserError("the answer is no whole guide, so it has no step to draw; ask for a guide first")
    if not 1 <= step <= len(spans):
        raise UserError(f"the guide has steps 1 to {len(spans)}, got {step}")
    length = config.codes_per_picture + 2
    start = spans[step - 2] + length if step > 1 else 0
    span = spans[step - 1]
    newline = processor.encode_text("\n")
    for line in _line_starts(turn.answer.ids[:span].tolist(), start, newline):
        if re.match(rf"{step}\.\s", processor.decode_text(turn.answer.ids[line:span].tolist())):
            return StepPlace(step, line, span, span + length, step - 1)
    raise UserError(f"step {step} has no line of its own in the answer, so it cannot be drawn anew")


def _line_starts(ids: list[int], start: int, newline: list[int]) -> list[int]:
    """Places from `start` on where a line begins."""
    size = len(newline)
    return [
        at for at in range(start, len(ids)) if at == start or at >= start + size and ids[at - size : at] == newline
    ]


def _redraw(
    session: ChatSession, action: Action, place: StepPlace, options: GenerationOptions, cancel: threading.Event
) -> Events:
    turn, text = action.turn, action.text
    asked, config = session.turns[turn], session.backbone.model.config
    answer = asked.answer
    before = _cut(answer, 0, place.span, 0, place.picture)
    if text is not None:
        line = session.backbone.processor.encode_text(f"{place.step}. {text}\n")
        before = Conversation.cat(
            [_cut(answer, 0, place.line, 0, place.picture), written(torch.tensor(line), None, config)]
        )
    pieces = [*session.pieces(asked.context, asked.asked), before]
    limit = config.text_tower.max_position_embeddings - len(config.scales) - 2
    if (length := parse(Conversation.cat(pieces), config).length) > limit:
        raise UserError(f"with this text step {place.step} begins at position {length:,}, expected at most {limit:,}")
    tokens: HybridTokens | None = None
    with session.using(asked.adapter):
        stream, _ = session.kept.feed(pieces, asked.adapter)
        generator = torch.Generator().manual_seed(options.seed)
        for event in picture_events(stream, options, generator, cancel, place.picture):
            if isinstance(event, ImageDone):
                tokens = event.tokens
            yield event
    if tokens is not None:
        after = _cut(answer, place.end, len(answer.ids), place.picture + 1, len(answer.residuals))
        span = written(span_ids(tokens, config), tokens.residual, config)
        shown = {number: picture for number, picture in asked.shown.items() if number != place.picture}
        session.turns[turn] = replace(asked, answer=Conversation.cat([before, span, after]), shown=shown)
        session.actions.append(action)
    context = Conversation.cat([*session.pieces(asked.context, asked.asked), session.turns[turn].answer])
    yield Finished("cancelled" if tokens is None else "stop", context)


def _cut(piece: Conversation, start: int, stop: int, first: int, last: int) -> Conversation:
    """The ids [start, stop) of a piece, with the residuals [first, last) of the spans among them."""
    return Conversation(piece.ids[start:stop], piece.residuals[first:last], piece.assistant[start:stop])
