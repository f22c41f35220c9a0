"""The shape of an answer, enforced while it is decoded: every step of a guide has exactly one picture.

Knows the Markdown of a guide and the text of each id. Knows no model; it only forbids ids.

    # Title
    One sentence.
    ## Parts … ## Tools …
    ## Steps
    1. Text of the step.
    <|boi|>…<|eoi|>
    2. …
    <|boi|>…<|eoi|>
    A closing line.

Rules: after the newline of a numbered step the only choice is ``<|boi|>``, nowhere else in a guide may it
stand; after a picture comes a newline or the end of the turn; steps are numbered 1, 2, 3 …; the turn cannot
end while a guide has no step or its last step no picture; after the closing line the turn ends. An answer
that does not begin with ``# `` is no
guide: a picture may then stand at the beginning of a line, one per line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from vlm.config import HartVLMConfig
from vlm.text_tokenizer import piece_texts

STEPS_HEADING = "## Steps"


@dataclass
class AnswerState:
    """Where an answer stands, id by id. Knows text only; `newline` and spans come as calls."""

    line: str = ""
    first_line: bool = True
    guide: bool = False
    in_steps: bool = False
    step: int = 0
    owes_picture: bool = False
    after_picture: bool = False
    closed: bool = False

    def text(self, piece: str) -> None:
        """A piece of text without a newline."""
        self.line += piece
        self.after_picture = False
        if self.first_line and self.line.startswith("# "):
            self.guide = True

    def newline(self) -> None:
        """A line ends."""
        if self.in_steps and self._numbered():
            self.step += 1
            self.owes_picture = True
        elif self.in_steps and self.step and self.line.strip():
            self.closed = True
        if self.guide and self.line.strip() == STEPS_HEADING:
            self.in_steps = True
        if self.line or self.after_picture:
            self.first_line = False
        self.line = ""
        self.after_picture = False

    def picture(self) -> None:
        """A span ends."""
        self.owes_picture = False
        self.after_picture = True
        self.first_line = False

    def may_draw(self) -> bool:
        """Is <|boi|> allowed now?"""
        if self.guide:
            return self.owes_picture
        return not self.line and not self.after_picture

    def may_end(self) -> bool:
        """Is the end of the turn allowed now?"""
        if not self.guide:
            return True
        return self.step > 0 and not self.owes_picture and not self._numbered()

    def only_newline(self) -> bool:
        """Right after a picture, text other than a newline is forbidden."""
        return self.after_picture

    def may_break(self) -> bool:
        """Is a newline allowed now? Inside the steps a line must hold something first."""
        if not self.in_steps or self.after_picture:
            return True
        if self._numbered():
            return bool(self.line[len(self._label()) :].strip())
        return bool(self.line.strip())

    def may_add(self, piece: str) -> bool:
        """May this text follow? Inside the steps a line is the next number or the closing line."""
        if not self.in_steps:
            return True
        line, label = self.line + piece, self._label()
        if not line[0].isdigit() and self.step > 0:
            return bool(line.strip())
        return line.startswith(label) or label.startswith(line)

    def constrains_text(self) -> bool:
        """False when `may_add` holds for every piece, so that nobody needs to ask."""
        if not self.in_steps:
            return False
        if not self.line:
            return True
        return self.line[0].isdigit() and not self.line.startswith(self._label())

    def _label(self) -> str:
        return f"{self.step + 1}. "

    def _numbered(self) -> bool:
        return self.in_steps and self.line[:1].isdigit()


class StructureProcessor(LogitsProcessor):
    """Forbids what breaks an answer's shape. One per answer: it follows the ids it is shown.

    Called with input_ids (1, n), the answer so far (``<|boi|>`` and ``<|eoi|>`` stand for a whole picture),
    and scores (1, text vocabulary); returns the scores with -inf where an id is forbidden. Special ids that
    only the stream itself writes are always forbidden, ``<|eoi|>`` among them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: HartVLMConfig) -> None:
        self.config = config
        self.state = AnswerState()
        self.seen: list[int] = []
        self.texts = piece_texts(tokenizer)
        newlines = [index for index, text in enumerate(self.texts) if text == "\n"]
        if not newlines:
            raise ValueError("the vocabulary has no piece for the newline, expected one of its own")
        # The byte <0x0A> spells a newline too; one spelling is enough.
        self.newline = newlines[0]
        allowed = [bool(text) for text in self.texts]
        for index in newlines[1:]:
            allowed[index] = False
        for index in (self.newline, config.boi_id, config.turn_end_id):
            allowed[index] = True
        self.forbidden = ~torch.tensor(allowed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ids = input_ids[0].tolist()
        self._follow(ids)
        forbidden = self._forbidden_now().to(scores.device)
        return scores.masked_fill(forbidden, float("-inf"))

    def _follow(self, ids: Sequence[int]) -> None:
        if list(ids[: len(self.seen)]) != self.seen:
            raise RuntimeError("one StructureProcessor follows one answer; its ids changed behind it")
        for index in ids[len(self.seen) :]:
            if index == self.newline:
                self.state.newline()
            elif index == self.config.eoi_id:
                self.state.picture()
            elif index != self.config.boi_id:
                self.state.text(self.texts[index])
        self.seen = list(ids)

    def _forbidden_now(self) -> Tensor:
        state, config = self.state, self.config
        if state.guide and state.owes_picture:
            return self._all_but(config.boi_id)
        if state.closed:
            return self._all_but(config.turn_end_id)
        if state.only_newline():
            return self._all_but(self.newline, config.turn_end_id)
        forbidden = self.forbidden.clone()
        if state.constrains_text():
            for index, text in enumerate(self.texts):
                if text and not forbidden[index] and text != "\n":
                    forbidden[index] = not state.may_add(text)
        forbidden[config.boi_id] = not state.may_draw()
        forbidden[config.turn_end_id] = not state.may_end()
        forbidden[self.newline] = not state.may_break()
        return forbidden

    def _all_but(self, *allowed: int) -> Tensor:
        forbidden = torch.ones_like(self.forbidden)
        forbidden[list(allowed)] = False
        return forbidden
