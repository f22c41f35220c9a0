"""A tiny random model whose words can be scripted: what it says is fixed, what it draws is its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from stream_fixtures import drawing_model, processor

from vlm.agent import ChatAgent, agent_of
from vlm.guide import PICTURE

GUIDE = f"""# Red stool
Short.

## Parts
- 2 x red leg

## Steps
1. Attach leg 1.
{PICTURE}
2. Attach leg 2.
{PICTURE}
You are done!"""
GREEN = GUIDE.replace("Red stool", "Green stool")
BRIEF = {"max_new_tokens": 6, "previews": False, "temperature": 1.0, "code_temperature": 1.0}


class Script:
    """Answers that a model will give, one after another; the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def next(self) -> str:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def script(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Script:
    """Let every model say these answers; `PICTURE` in them is a picture that it draws."""
    says = Script(*answers)

    class Scripted:
        """Stands where the structure of an answer is enforced, and allows one id at a time."""

        def __init__(self, tokenizer, config) -> None:
            self.ids: list[int] = []
            encoder = processor_of(config)
            for index, piece in enumerate(says.next().split(PICTURE)):
                self.ids += [config.boi_id, config.eoi_id] if index else []
                self.ids += encoder.encode_text(piece)
            self.ids.append(config.turn_end_id)

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, float("-inf"))
            forced[:, self.ids[input_ids.shape[1]]] = 0.0
            return forced

    monkeypatch.setattr("vlm.generate.StructureProcessor", Scripted)
    return says


def processor_of(config):
    from stream_fixtures import text_tokenizer

    from vlm.processor import StreamProcessor

    return StreamProcessor(text_tokenizer(), config)


def tiny_agent(seed: int = 0, context: int | None = None, **changes) -> ChatAgent:
    """An agent over random weights; models of another seed have another fingerprint."""
    built = drawing_model(seed=seed, **changes)
    return agent_of(built, processor(built), f"{seed:016x}", seed=5, context=context)


def pixels(pictures: Sequence) -> list[bytes]:
    """Pictures as bytes, to compare."""
    return [picture.tobytes() for picture in pictures]
