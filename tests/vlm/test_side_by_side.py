"""Several pictures at once: each is the one that it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agent_fixtures import script, tiny_agent
from stream_fixtures import KINDS, drawing_model, processor, question

from vlm.errors import OutOfWorld
from vlm.guide import PICTURE
from vlm.sampling import GenerationOptions
from vlm.session import StreamSession
from vlm.side_by_side import draw_together

PROMPTS = ("A stool?", "How do I assemble a stool with three red legs?", "Red!")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_a_span_is_the_same_alone_and_beside_others(kind: str, guidance: float, monkeypatch):
    script(monkeypatch, PICTURE)
    built = drawing_model(kind)
    prompts = [question(built, text) for text in PROMPTS]
    options = [GenerationOptions(seed=seed, guidance=guidance, code_temperature=1.0) for seed in (3, 4, 5)]
    together = draw_together(built, processor(built), prompts, options)
    for prompt, chosen, (text, tokens) in zip(prompts, options, together, strict=True):
        session, generator = StreamSession(built), torch.Generator().manual_seed(chosen.seed)
        logits = session.feed(prompt)
        # The draw of <|boi|> itself.
        torch.multinomial(torch.ones(logits.shape[-1]).softmax(-1), 1, generator=generator)
        for _ in session.draw_scales(chosen, generator):
            pass
        assert text == "" and torch.equal(tokens.flat_codes(), session.last_tokens.flat_codes())
        torch.testing.assert_close(tokens.residual.float(), session.last_tokens.residual.float(), atol=2e-3, rtol=0)


def test_drawing_many_is_drawing_each(monkeypatch):
    script(monkeypatch, f"Here.\n{PICTURE}\n")
    agent = tiny_agent()
    many = agent.draw_many(PROMPTS, seeds=[1, 2, 3], code_temperature=1.0)
    for drawing, prompt, seed in zip(many, PROMPTS, (1, 2, 3), strict=True):
        alone = agent.draw(prompt, seed=seed, code_temperature=1.0)
        assert (drawing.text, drawing.prompt, drawing.seed) == (alone.text, prompt, seed)
        difference = np.abs(np.asarray(drawing.image, int) - np.asarray(alone.image, int))
        assert difference.max() <= 2
    assert agent.draw_many([]) == []


def test_words_instead_of_a_picture_are_told(monkeypatch):
    script(monkeypatch, PICTURE, "I know furniture only.")
    with pytest.raises(OutOfWorld) as told:
        tiny_agent().draw_many(["a stool", "a song"])
    assert told.value.answer == "I know furniture only."
    with pytest.raises(ValueError, match="expected 2 seeds"):
        tiny_agent().draw_many(["a stool", "a bench"], seeds=[1])
