"""Making a recorded conversation again: the same messages, seeds, redrawn and edited steps, in the same order.

Knows sessions and records. On the same model and machine the result is the same to the byte.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing

from vlm.backbone import Backbone
from vlm.chat import ChatSession
from vlm.errors import UserError
from vlm.events import Event, Events
from vlm.guide_edits import redraw_step
from vlm.message import check_message
from vlm.record import Action, Record, drawn_on, options_of, part_of, settings_of

log = logging.getLogger(__name__)


def replay_record(backbone: Backbone, record: Record, on_event: Callable[[Event], None] | None = None) -> ChatSession:
    """The session that a record tells of, drawn again.

    On another device or in another dtype than it was drawn, pictures come out nearly the same, and a warning is logged.
    Raises `UserError` if the record is of another model, adapter or context, if one of its turns was stopped by hand,
    or if its actions do not fit its turns.
    """
    if record.model != backbone.fingerprint:
        raise UserError(
            f"the record is of model {record.model}, this is {backbone.fingerprint}; load the model that drew it"
        )
    if record.context != backbone.context:
        raise UserError(
            f"the record has {record.context:,} positions of context, this agent {backbone.context:,}; "
            "load the agent with the same"
        )
    for number, turn in enumerate(record.turns):
        if turn.origin is not None or turn.reason == "cancelled":
            why = "was stopped by hand" if turn.origin is None else f"was written by model {turn.origin}"
            raise UserError(f"turn {number + 1} {why}, so it cannot be drawn again; load its saved conversation")
        if turn.adapter is not None and turn.speaker is not None:
            known_by = backbone.speaker(turn.adapter).fingerprint
            if known_by != turn.speaker:
                raise UserError(
                    f"turn {number + 1} was drawn by {turn.speaker}, the adapter {turn.adapter!r} that is loaded makes "
                    f"{known_by}; load the adapter that drew it"
                )
    session = ChatSession(backbone, system=record.system, seed=record.seed)
    here = drawn_on(session)
    there = {"device": record.device or here["device"], "dtype": record.dtype or here["dtype"]}
    if here != there:
        log.warning("drawn with %s, now with %s: pictures will be nearly the same, not to the byte", there, here)
    for action in record.actions:
        try:
            running = _events(session, record, action)
        except (IndexError, ValueError) as error:
            raise UserError(f"the record's {action.do} of turn {action.turn + 1} does not fit: {error}") from error
        with closing(running) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
    return session


def _events(session: ChatSession, record: Record, action: Action) -> Events:
    if action.do == "answer":
        if action.turn != len(session.turns):
            raise ValueError(f"expected turn {len(session.turns) + 1}")
        turn = record.turns[action.turn]
        message = check_message([part_of(part) for part in turn.message])
        return session.reply(message, options_of(turn.options), adapter=turn.adapter)
    if action.step is None or action.seed is None or (action.do == "edit") != (action.text is not None):
        raise ValueError("expected a step and a seed, and a text for an edit alone")
    changes = settings_of(action.settings or {})
    return redraw_step(session, action.turn, action.step, text=action.text, seed=action.seed, **changes)
