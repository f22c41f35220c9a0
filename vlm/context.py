"""Which turns of a long conversation the model still sees; plain arithmetic over their sizes.

The rule: when what is kept, plus the new message, would leave less than a quarter of the context for the answer, the
oldest turns leave until half of it is free. The system prompt and the current guide never leave. Leaving many turns
at once, and seldom, is what keeps the cost of a turn flat: each time the kept ones must be run again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vlm.errors import UserError

FULL = 3 / 4
"""Share of the context that may be taken when an answer begins."""

TRIMMED = 1 / 2
"""Share that is taken at most after turns have left, as far as the rule allows."""


def turns_to_keep(sizes: Mapping[int, int], pinned: Collection[int], fixed: int, limit: int, least: int) -> list[int]:
    """Numbers of the turns that stay, in order.

    sizes: positions that each turn takes, by its number. pinned: turns that never leave. fixed: positions of the system
    prompt and the new message. limit: positions in all; least: of these, how many an answer needs at the least.
    Raises `UserError` if even the pinned turns and the message leave less than that.
    """
    kept = sorted(sizes)
    taken = fixed + sum(sizes.values())
    if taken > FULL * limit:
        for number in sorted(sizes):
            if taken <= TRIMMED * limit:
                break
            if number not in pinned:
                kept.remove(number)
                taken -= sizes[number]
    if taken > limit - least:
        held = taken - fixed
        beside = f" beside {held:,} of the current guide" if held else ""
        raise UserError(
            f"the message takes {fixed:,} positions{beside}, expected at most {limit - least - held:,}; "
            "shorten it or begin a new conversation"
        )
    return kept
