"""A conversation with the agent: messages in, typed events out, turn by turn, over one kept stream.

Knows turns, seeds and what the model still sees of them. Does not know files, terminals or how a guide is changed
(`vlm.guide_edits`). Sessions share a `Backbone` and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any

import torch
from PIL import Image

from hart.tokens import HybridTokens
from vlm.backbone import Backbone
from vlm.context import turns_to_keep
from vlm.events import ContextTrimmed, Event, Events, Finished, Reason
from vlm.generate import answer_events
from vlm.kept_stream import KeptStream
from vlm.message import Message, Part, SentPicture, check_message
from vlm.prompt import check_prompt
from vlm.reading import is_guide, marked_text
from vlm.record import Action
from vlm.sampling import GenerationOptions
from vlm.stream import Conversation, parse, written


@dataclass(frozen=True)
class Turn:
    """One message and its answer.

    asked: the stream from the user's turn to the opened assistant's; answer: the rest, always closed. context: numbers
    of the earlier turns that the model saw. guide: the answer is a whole guide. origin: fingerprint of another model
    that wrote the answer, if one did. speaker: fingerprint of the model with `adapter`, when it answered. shown: the
    answer's pictures by number (from 0) as they were shown, where what drew them is not here.
    """

    message: tuple[Part, ...]
    asked: Conversation
    answer: Conversation
    options: GenerationOptions
    reason: Reason
    context: tuple[int, ...] = ()
    adapter: str | None = None
    guide: bool = False
    origin: str | None = None
    speaker: str | None = None
    shown: Mapping[int, SentPicture] = field(default_factory=dict)

    @property
    def stream(self) -> Conversation:
        """The turn as one piece, from the user's role to the end of the answer."""
        return Conversation.cat([self.asked, self.answer])


class ChatSession:
    """A conversation. Not shared between threads, and one answer at a time; the backbone may be shared.

    system: an instruction before all turns. seed: turn n (from 0) is drawn with seed + n unless told otherwise.
    Raises `UserError` for a system prompt that is empty, too long or binary.
    """

    def __init__(self, backbone: Backbone, *, system: str | None = None, seed: int = 0) -> None:
        self.backbone = backbone
        self.system = None if system is None else check_prompt(system)
        self.seed = seed
        self.turns: list[Turn] = []
        self.actions: list[Action] = []
        self.notices: list[Event] = []
        self.kept = KeptStream(backbone.model)
        self._busy = False
        processor = backbone.processor
        self._newline = written(torch.tensor(processor.encode_text("\n")), None, backbone.model.config, False)
        first = torch.tensor([processor.config.bos_id])
        self._head = written(first, None, processor.config, False)
        if self.system is not None:
            self._head = processor.encode([{"role": "system", "content": self.system}])

    def reply(
        self,
        message: Message,
        options: GenerationOptions | None = None,
        *,
        adapter: str | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> Events:
        """Answer a message as events, `Finished` the last; the turn is in `turns` by then.

        message: text, or a list of text and pictures in any order. options: settings of this answer; `changes` are
        fields of `GenerationOptions` by name (seed=3, guidance=2.0, temperature=0). adapter: for this answer alone.
        cancel: when set, the answer ends at its next event. An answer that is cancelled, cut off by closing the
        iterator, or interrupted stays in the conversation as far as it came: whole pictures only, its turn closed.
        Raises `UserError` on a bad message, ValueError on bad options, before any event.
        """
        parts = check_message(message, self.backbone.processor.background)
        chosen = self.options(options, changes)
        using = self.using(adapter)
        asked = self.encode(parts)
        kept = self._context(asked)
        speaker = None if adapter is None else self.backbone.speaker(adapter).fingerprint
        turn = Turn(parts, asked, self._closing, chosen, "cancelled", tuple(kept), adapter, speaker=speaker)
        return self._answer(turn, using, cancel or threading.Event())

    def undo(self) -> tuple[Part, ...]:
        """Take back the last turn; returns its message. Raises RuntimeError when there is none, or one is running."""
        self.check_idle()
        if not self.turns:
            raise RuntimeError("there is no turn to take back")
        turn = self.turns.pop()
        self.actions = [action for action in self.actions if action.turn < len(self.turns)]
        return turn.message

    def retry(self, options: GenerationOptions | None = None, **changes: Any) -> Events:
        """Answer the last message again, with the next seed unless told otherwise; as `reply`.

        The answer before goes when the first event is asked for; where an error ends the new one, it comes back.
        """
        self.check_idle()
        if not self.turns:
            raise RuntimeError("there is no turn to answer again")
        last = self.turns[-1]
        options = self.options(options or replace(last.options, seed=(last.options.seed + 1) % 2**63), changes)
        kept = list(self.turns), list(self.actions)
        message = self.undo()
        try:
            events = self.reply(message, options, adapter=last.adapter)
        finally:
            self.turns, self.actions = kept

        def again() -> Events:
            if not self.turns or self.turns[-1] is not last:
                raise RuntimeError("the conversation went on since this answer was asked for; ask again")
            before = list(self.turns), list(self.actions)
            self.undo()
            try:
                yield from events
            finally:
                # Where nothing was recorded, an error came before; the answer that was there is better than none.
                if len(self.turns) < len(before[0]):
                    self.turns, self.actions = before

        return again()

    def messages(self) -> list[dict[str, Any]]:
        """The whole conversation as plain messages whose pictures are PIL images, as `StreamProcessor.encode` takes."""
        found: list[dict[str, Any]] = []
        if self.system is not None:
            found.append({"role": "system", "content": [{"type": "text", "text": self.system}]})
        for turn in self.turns:
            sent = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.image}
                for part in turn.message
            ]
            found += [{"role": "user", "content": sent}, {"role": "assistant", "content": self.answer_parts(turn)}]
        return found

    def answer_parts(self, turn: Turn) -> list[dict[str, Any]]:
        """The answer of a turn as parts, its pictures decoded."""
        number = count()
        return [
            {"type": "image", "image": self.picture(turn, next(number), part["tokens"])}
            if part["type"] == "image"
            else part
            for part in self.backbone.processor.decode(turn.stream)[-1]["content"]
        ]

    def picture(self, turn: Turn, number: int, tokens: HybridTokens) -> Image.Image:
        """Picture `number` (from 0) of a turn's answer, whose tokens these are, as pixels."""
        return turn.shown[number].image if number in turn.shown else self.backbone.picture(tokens, turn.adapter)

    def current_guide(self) -> int | None:
        """Number of the last turn whose answer is a whole guide; None if there is none."""
        return next((number for number in reversed(range(len(self.turns))) if self.turns[number].guide), None)

    def add_turn(self, turn: Turn) -> None:
        """Append a turn, whether its answer is a guide found out."""
        text = marked_text(self.backbone.processor.decode(turn.stream)[-1]["content"])
        self.turns.append(replace(turn, guide=turn.reason == "stop" and is_guide(text)))

    def release(self) -> None:
        """Let go of the cache: memory is freed, and the next answer first runs what the model still sees again."""
        self.check_idle()
        self.kept.release()

    def options(self, options: GenerationOptions | None, changes: dict[str, Any]) -> GenerationOptions:
        """Settings of the next answer. Raises ValueError on an unknown name or a value out of range."""
        unknown = set(changes) - {field.name for field in fields(GenerationOptions)}
        if unknown:
            known = ", ".join(field.name for field in fields(GenerationOptions))
            raise ValueError(f"unknown setting {sorted(unknown)[0]!r}, expected one of {known}")
        if options is None:
            options = GenerationOptions(seed=(self.seed + len(self.turns)) % 2**63)
        chosen = replace(options, **changes)
        chosen.check_scales(self.backbone.model.config)
        return chosen

    def encode(self, parts: tuple[Part, ...]) -> Conversation:
        """A user's message and the opening of its answer, as a piece of stream."""
        model, processor = self.backbone.model, self.backbone.processor
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, SentPicture):
                tokens = processor.encode_image(part.image, model.image_tokenizer)
                content.append({"type": "image", "tokens": tokens})
            else:
                content.append({"type": "text", "text": part})
        whole = processor.encode([{"role": "user", "content": content}], add_generation_prompt=True)
        return replace(whole, ids=whole.ids[1:], assistant=whole.assistant[1:])

    def using(self, adapter: str | None) -> AbstractContextManager[None]:
        """The model with an adapter switched on (None: without any). Raises `UserError` on an unknown one, at once."""
        return nullcontext() if adapter is None else self.backbone.use_adapter(self.backbone.model, adapter)

    def pieces(self, context: tuple[int, ...], asked: Conversation) -> list[Conversation]:
        """The stream before an answer, cut where the cache may be cut: each answer goes with the message after it."""
        pieces, before = [], self._head
        for number in context:
            turn = self.turns[number]
            pieces.append(Conversation.cat([before, turn.asked]))
            before = Conversation.cat([turn.answer, self._newline])
        return [*pieces, Conversation.cat([before, asked])]

    def check_idle(self) -> None:
        """Raises RuntimeError while an answer is running."""
        if self._busy:
            raise RuntimeError("an answer is still running: let its iterator end, or close it, first")

    def running(self, work: Events) -> Events:
        """Run work on the stream, one at a time; a cache that an error may have torn is let go of."""
        self.check_idle()
        self._busy = True
        try:
            yield from work
        except GeneratorExit:
            raise
        except BaseException:
            self.kept.release()
            raise
        finally:
            self._busy = False

    @property
    def _closing(self) -> Conversation:
        """The end of a turn that the model did not write."""
        config = self.backbone.model.config
        return written(torch.tensor([config.turn_end_id]), None, config, False)

    def _context(self, asked: Conversation) -> list[int]:
        """Numbers of the turns that the model sees beside a new message."""
        config = self.backbone.model.config
        seen = (*self.turns[-1].context, len(self.turns) - 1) if self.turns else ()
        guide = self.current_guide()
        newline = len(self._newline.ids)
        sizes = {number: parse(self.turns[number].stream, config).length + newline for number in seen}
        fixed = parse(Conversation.cat([self._head, asked]), config).length
        # A picture's positions and a word or two; less is no room for an answer.
        least = len(config.scales) + 8
        return turns_to_keep(sizes, [] if guide is None else [guide], fixed, self.backbone.context, least)

    def _answer(self, turn: Turn, using: AbstractContextManager[None], cancel: threading.Event) -> Events:
        before = len(self.turns)

        def work() -> Events:
            if len(self.turns) != before:
                raise RuntimeError("the conversation went on since this answer was asked for; ask again")
            answer: list[Conversation] = []
            reason: Reason = "cancelled"
            try:
                yield from self._before_answer(turn)
                with using:
                    reason = yield from self._generate(turn, cancel, answer)
            except (GeneratorExit, KeyboardInterrupt):
                self._record(turn, answer, reason)
                raise
            self._record(turn, answer, reason)
            context = Conversation.cat([*self.pieces(turn.context, turn.asked), self.turns[-1].answer])
            yield Finished(reason, context)

        return self.running(work())

    def _before_answer(self, turn: Turn) -> Events:
        notices, self.notices = self.notices, []
        yield from notices
        if self.turns:
            last = self.turns[-1]
            left = sorted({*last.context, len(self.turns) - 1} - set(turn.context))
            if left:
                yield ContextTrimmed(tuple(left))

    def _generate(
        self, turn: Turn, cancel: threading.Event, answer: list[Conversation]
    ) -> Generator[Event, None, Reason]:
        """The events of an answer; `answer` gets its pieces, however it ends."""
        session, logits = self.kept.feed(self.pieces(turn.context, turn.asked), turn.adapter)
        start = session.mark()
        try:
            return (yield from answer_events(session, self.backbone.processor, logits, turn.options, cancel))
        finally:
            answer += session.pieces_since(start)

    def _record(self, turn: Turn, answer: list[Conversation], reason: Reason) -> None:
        if answer and int(answer[-1].ids[-1]) == self.backbone.model.config.turn_end_id:
            reason = "stop"
        else:
            answer = [*answer, self._closing]
        self.add_turn(replace(turn, answer=Conversation.cat(answer), reason=reason))
        self.actions.append(Action(do="answer", turn=len(self.turns) - 1))
