"""The seed that a visitor may want again: of the last answer, or of the step that was drawn anew after it.

Knows sessions and their actions.
"""

from __future__ import annotations

from vlm.chat import ChatSession


def last_seed(session: ChatSession) -> int | None:
    """The seed of what was drawn last; None before any answer."""
    if session.actions and session.actions[-1].seed is not None:
        return session.actions[-1].seed
    return session.turns[-1].options.seed if session.turns else None


def seed_line(session: ChatSession) -> str:
    """The same in a sentence; "" before any answer."""
    seed = last_seed(session)
    if seed is None:
        return ""
    step = session.actions[-1].step if session.actions else None
    return f"Seed of the last answer: {seed}" if step is None else f"Seed of step {step}, drawn anew: {seed}"
