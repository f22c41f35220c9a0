"""Long conversations: which turns leave, that this is said, and that a turn costs no more for what came before."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from agent_fixtures import BRIEF, GREEN, GUIDE, script, tiny_agent
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm.context import FULL, TRIMMED, turns_to_keep
from vlm.errors import UserError
from vlm.events import ContextTrimmed
from vlm.guide import PICTURE
from vlm.session import StreamSession

SIZES = st.lists(st.integers(1, 60), max_size=20)


@given(SIZES, st.integers(0, 19), st.integers(1, 300))
def test_the_oldest_leave_first_and_the_pinned_never(sizes: list[int], pin: int, fixed: int):
    limit, least = 400, 20
    by_number = dict(enumerate(sizes))
    pinned = [pin] if pin < len(sizes) else []
    kept = turns_to_keep(by_number, pinned, fixed, limit, least)
    left = [number for number in by_number if number not in kept]
    taken = fixed + sum(sizes[number] for number in kept)
    assert kept == sorted(kept) and set(pinned) <= set(kept) and taken <= limit - least
    free = [number for number in by_number if number not in pinned]
    assert left == free[: len(left)]
    assert bool(left) <= (fixed + sum(sizes) > FULL * limit)
    if left:
        # No turn left that could have stayed.
        assert taken + sizes[left[-1]] > TRIMMED * limit


@pytest.mark.parametrize(("fixed", "pinned"), [(381, 0), (200, 190)])
def test_what_can_never_fit_is_refused(fixed: int, pinned: int):
    with pytest.raises(UserError, match=r"expected at most \d+; shorten it"):
        turns_to_keep({0: pinned, 1: 5} if pinned else {}, [0] if pinned else [], fixed, 400, 20)


def test_turns_leave_in_order_and_an_event_says_so(monkeypatch):
    script(monkeypatch, f"Yes.\n{PICTURE}")
    session = tiny_agent(context=160).session(system="Be brief.")
    left: list[int] = []
    for number in range(14):
        events = list(session.reply(f"Is this number {number}?"))
        trimmed = [event for event in events if isinstance(event, ContextTrimmed)]
        if trimmed:
            assert events[0] is trimmed[0] and len(trimmed) == 1
            left += trimmed[0].left
        first = session.backbone.processor.decode(events[-1].conversation)[0]
        assert first == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert len(left) >= 6 and left == list(range(len(left)))
    assert session.turns[-1].context == tuple(range(len(left), 13))
    assert len(session.messages()) == 1 + 2 * 14


def test_the_current_guide_stays_and_an_old_one_leaves(monkeypatch):
    def chat(count: int) -> list[int]:
        left = []
        for number in range(count):
            for event in session.reply(f"Is this number {number}?"):
                left += event.left if isinstance(event, ContextTrimmed) else []
        return left

    script(monkeypatch, GUIDE, "Yes.")
    session = tiny_agent(context=520).session()
    list(session.reply("A red stool?"))
    left = chat(25)
    assert left and 0 not in left and session.turns[-1].context[0] == 0
    script(monkeypatch, GREEN, "Yes.")
    list(session.reply("The same in green."))
    assert 0 in chat(25)
    assert session.current_guide() == 26 and 26 in session.turns[-1].context


def test_going_on_after_turns_have_left_needs_no_cache(monkeypatch):
    script(monkeypatch, f"Yes.\n{PICTURE}")
    kept, released = (tiny_agent(context=160).session() for _ in range(2))
    for number in range(10):
        list(kept.reply(f"Is this {number}?"))
        list(released.reply(f"Is this {number}?"))
        released.release()
    assert [turn.stream.fingerprint() for turn in kept.turns] == [turn.stream.fingerprint() for turn in released.turns]
    assert kept.turns[-1].context[0] > 0


def test_a_message_that_cannot_fit_leaves_the_conversation_as_it_was():
    session = tiny_agent(context=100).session()
    with pytest.raises(UserError, match="shorten it or begin a new conversation"):
        session.reply("word " * 300)
    assert session.turns == []
    with pytest.raises(UserError, match="choose from 1 to 4,096"):
        tiny_agent(context=5000)


def test_fifty_pictures_cost_each_turn_what_it_adds(monkeypatch):
    script(monkeypatch, f"Yes.\n{PICTURE}\n")
    rows = [0]
    for name in ("_text_rows", "_image_rows"):
        original = getattr(StreamSession, name)

        def counted(self, given, *rest, original=original):
            rows[0] += given.shape[-1 if given.ndim == 1 else 1]
            return original(self, given, *rest)

        monkeypatch.setattr(StreamSession, name, counted)
    photo = Image.new("RGB", (32, 32), (9, 90, 200))
    session, costs = tiny_agent().session(), []
    for number in range(25):
        rows[0] = 0
        list(session.reply([f"Is it {number % 10}?", photo], previews=False))
        costs.append(rows[0])
    assert sum(len(turn.stream.residuals) for turn in session.turns) == 50
    assert len(set(costs[1:])) == 1, costs


@pytest.mark.slow
def test_memory_does_not_grow_with_the_turns():
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory a process has")
    session = tiny_agent(context=400).session()
    for number in range(200):
        list(session.reply("Yes?", **BRIEF, cancel=threading.Event()))
        if number == 19:
            early = resident()
    assert resident() <= 1.05 * early
