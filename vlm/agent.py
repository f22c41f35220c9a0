"""The agent: one loaded model that chats, writes guides, draws and answers questions about pictures.

Knows how a task becomes a conversation. Knows no terminal and writes no file.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlm.backbone import Backbone
from vlm.bundle import bundle_path, fingerprint, load_bundle
from vlm.chat import ChatSession
from vlm.conversations import load_conversation
from vlm.devices import pick_device, pick_dtype
from vlm.errors import GuideError, OutOfWorld, UserError
from vlm.events import Event, Events
from vlm.flatpack.wording import article
from vlm.guide_edits import NEXT_QUESTION, EditableGuide, NextStep, next_step
from vlm.message import Message, check_picture
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.prompt import check_prompt
from vlm.reading import DrawnGuide, marked_text
from vlm.record import Record
from vlm.replay import replay_record
from vlm.sampling import GenerationOptions
from vlm.side_by_side import draw_together

__all__ = ["ChatAgent", "Drawing", "DrawnGuide", "agent_of", "load_agent"]

OnEvent = Callable[[Event], None]
ASKING = frozenset("can could draw give how i is make paint picture please render show sketch what which".split())
"""First words of a prompt that is a request already."""
ARTICLES = ("a ", "an ", "the ", "one ", "some ")


@dataclass(frozen=True)
class Drawing:
    """A picture and the words that came with it. image: mode "RGB", at the model's resolution."""

    image: Image.Image
    text: str
    prompt: str
    seed: int
    model: str


def load_agent(
    bundle: Path | str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    context: int | None = None,
) -> ChatAgent:
    """An agent over the model in the folder `bundle` (by default the one that ships with this package).

    device: cpu, cuda or mps; all random draws are made on the CPU, so a seed means nearly the same picture on each.
    dtype: float32 by default. seed: of its sessions, unless told. context: positions a conversation may take, at most
    and by default the model's. Raises `UserError` on a bundle or device that cannot be used.
    """
    chosen, precision = pick_device(device), pick_dtype(dtype)
    model, processor = load_bundle(bundle_path(bundle), device=chosen, dtype=precision)
    return agent_of(model, processor, fingerprint(bundle), seed=seed, context=context)


def agent_of(
    model: HartVLM,
    processor: StreamProcessor,
    fingerprint: str,
    *,
    seed: int = 0,
    context: int | None = None,
) -> ChatAgent:
    """An agent over a model that is loaded already. Raises `UserError` on a context that the model does not have."""
    limit = model.config.text_tower.max_position_embeddings
    if context is not None and not 1 <= context <= limit:
        raise UserError(f"the model has {limit:,} positions of context, got {context:,}; choose from 1 to {limit:,}")
    return ChatAgent(Backbone(model, processor, fingerprint, context or limit), seed=seed)


class ChatAgent:
    """One model for many conversations: they share it and nothing else, and may run in different threads."""

    def __init__(self, backbone: Backbone, *, seed: int = 0) -> None:
        self.backbone = backbone
        self.seed = seed
        self._default: ChatSession | None = None

    @property
    def model(self) -> HartVLM:
        """The model."""
        return self.backbone.model

    @property
    def processor(self) -> StreamProcessor:
        """Its processor."""
        return self.backbone.processor

    @property
    def fingerprint(self) -> str:
        """What its weights are known by."""
        return self.backbone.fingerprint

    @property
    def default_session(self) -> ChatSession:
        """The conversation that `reply` goes on with."""
        if self._default is None:
            self._default = self.session()
        return self._default

    def session(self, *, system: str | None = None, seed: int | None = None) -> ChatSession:
        """A new conversation."""
        return ChatSession(self.backbone, system=system, seed=self.seed if seed is None else seed)

    def load_session(self, folder: Path | str) -> ChatSession:
        """A saved conversation, see `vlm.conversations.load_conversation`."""
        return load_conversation(self.backbone, folder)

    def reply(self, message: Message, options: GenerationOptions | None = None, **rest: Any) -> Events:
        """Answer in the default conversation, see `ChatSession.reply`."""
        return self.default_session.reply(message, options, **rest)

    def guide(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> EditableGuide:
        """An illustrated guide, in a conversation of its own. changes: as for `ChatSession.reply`, adapter included.

        Raises `UserError` for a bad prompt, `OutOfWorld` where the model answers in words alone, `GuideError` where the
        answer is cancelled, cut off or not a guide.
        """
        session = self.session(seed=seed)
        _run(session, check_prompt(prompt), on_event, cancel, changes)
        return EditableGuide(session, 0)

    def draw(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> Drawing:
        """One picture: "a red bench with two slats", or a sentence that asks for one.

        Raises `UserError` for a bad prompt, `OutOfWorld` where the model answers in words alone, `GuideError` when it
        is cancelled before the picture is done.
        """
        prompt = check_prompt(prompt)
        session = self.session(seed=seed)
        _run(session, draw_message(prompt), on_event, cancel, changes)
        turn = session.turns[0]
        parts = session.answer_parts(turn)
        text = marked_text([part for part in parts if part["type"] == "text"])
        pictures = [part["image"] for part in parts if part["type"] == "image"]
        by = self.backbone.speaker(turn.adapter)
        if not pictures:
            if turn.reason == "cancelled":
                raise GuideError("the drawing was cancelled before it was done")
            raise OutOfWorld(by.outside or text)
        # The last one: where a guide was written, that shows all of the product.
        return Drawing(pictures[-1], text, prompt, turn.options.seed, by.fingerprint)

    def draw_many(self, prompts: Sequence[str], *, seeds: Sequence[int] | None = None, **changes: Any) -> list[Drawing]:
        """One picture for each prompt, all drawn at once: on a GPU several cost little more than one.

        seeds: one a prompt, by default the agent's for each. Each picture is the one that `draw` gives for its seed,
        but for the rounding of larger matrices. Raises `OutOfWorld` where the model answers one in words alone.
        """
        asked = [check_prompt(prompt) for prompt in prompts]
        chosen = [self.seed] * len(asked) if seeds is None else list(seeds)
        if len(chosen) != len(asked):
            raise ValueError(f"expected {len(asked)} seeds, one a prompt, got {len(chosen)}")
        session = self.session()
        options = [session.options(None, {**changes, "seed": seed}) for seed in chosen]
        streams = [
            self.processor.encode([{"role": "user", "content": draw_message(prompt)}], add_generation_prompt=True)
            for prompt in asked
        ]
        drawn = draw_together(self.model, self.processor, streams, options)
        if any(tokens is None for _, tokens in drawn):
            raise OutOfWorld(next(text for text, tokens in drawn if tokens is None).strip())
        return [
            Drawing(self.backbone.picture(tokens, None), text.strip(), prompt, seed, self.fingerprint)
            for (text, tokens), prompt, seed in zip(drawn, asked, chosen, strict=True)
            if tokens is not None
        ]

    def ask(
        self,
        picture: Any,
        question: str,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> str:
        """The answer, in words, to a question about a picture (a PIL image, a path or bytes)."""
        if picture is None:
            raise UserError("the question has no picture, expected one; pass a picture, or use `reply`")
        session = self.session(seed=seed)
        sent = check_picture(picture, self.processor.background)
        _run(session, [sent, check_prompt(question)], on_event, cancel, changes)
        parts = session.answer_parts(session.turns[0])
        return marked_text([part for part in parts if part["type"] == "text"])

    def continue_from(
        self,
        picture: Any,
        about: str | None = None,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
        **changes: Any,
    ) -> NextStep:
        """What comes next for the half-built product in a picture; about: what it is to be, "a red bench"."""
        session = self.session(seed=seed)
        said = f"I am building {check_prompt(about).rstrip('.')}. " if about is not None else ""
        sent = check_picture(picture, self.processor.background)
        _run(session, [sent, said + NEXT_QUESTION], on_event, cancel, changes)
        return next_step(session, 0)

    def replay(self, record: Record, on_event: OnEvent | None = None) -> ChatSession:
        """Make a recorded conversation again, see `vlm.replay.replay_record`."""
        return replay_record(self.backbone, record, on_event)


def draw_message(prompt: str) -> str:
    """A request for a picture as a sentence: what begins with no word of asking gets "Draw" before it.

    The model takes a bare "red bench" for the title of a guide.
    """
    first = re.match(r"[a-z]*", prompt.lower())
    if first is not None and first[0] in ASKING:
        return prompt
    thing = prompt.rstrip(".")
    return f"Draw {thing if thing.lower().startswith(ARTICLES) else article(thing)}."


def _run(
    session: ChatSession,
    message: Message,
    on_event: OnEvent | None,
    cancel: threading.Event | None,
    changes: dict[str, Any],
) -> None:
    with closing(session.reply(message, cancel=cancel, **changes)) as events:
        for event in events:
            if on_event is not None:
                on_event(event)
