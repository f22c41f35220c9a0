"""Words on their way into a document: no control characters, a reading direction, places to break a line.

Knows characters only, no format's markup.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import cache
from importlib import resources

LONGEST_WORD = 20
"""The width, in small letters, up to which a word without a place to break fits any line of a printed page."""

_NONCHARACTERS = frozenset(plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))
_JOINERS = ("\u200d", "\u2060")
# Scripts that break without spaces, by a dictionary or anywhere, are left to the typesetter.
_SPACED = r"[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
_WORD = re.compile(rf"{_SPACED}+")


def clean(text: str) -> str:
    """`text` with all white space as single spaces, and what no document may hold as U+FFFD.

    That is control characters, lone surrogates and noncharacters.
    """
    return "".join("\ufffd" if _forbidden(character) else character for character in " ".join(text.split()))


def is_rtl(text: str) -> bool:
    """Whether `text` reads from right to left: by its first character that has a direction (UAX #9, rule P2)."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L"


def drawable(text: str) -> str:
    """`text` with each character that the packaged fonts lack spelt as its number, "[U+13000]"."""
    return "".join(
        character if _has_glyph(character) else f"[U+{ord(character):04X}]" for character in text
    )


def breakable(text: str, longest: int = LONGEST_WORD) -> str:
    """`text` with zero-width spaces in words wider than `longest` small letters, never inside a cluster."""

    def word(found: re.Match[str]) -> str:
        return _broken(found[0], longest / 2) if sum(map(_width, found[0])) > longest else found[0]

    return _WORD.sub(word, text)


def shorten(text: str, longest: int) -> str:
    """At most `longest` characters of `text`, cut between clusters, with an ellipsis where some are left out."""
    if len(text) <= longest:
        return text
    end = longest - 1
    while end > 0 and not _may_break(text, end):
        end -= 1
    return text[: end or longest - 1].rstrip() + "…"


def _broken(word: str, widest: float) -> str:
    pieces, start, width = [], 0, _width(word[0])
    for index in range(1, len(word)):
        width += _width(word[index])
        if width > widest and _may_break(word, index):
            pieces.append(word[start:index])
            start, width = index, _width(word[index])
    return "\u200b".join([*pieces, word[start:]])


def _width(character: str) -> float:
    """About how many small Latin letters it is wide."""
    return 1.75 if character.isupper() or character in "mw@%&—…" or character >= "\u0900" else 1.0


def _may_break(text: str, index: int) -> bool:
    """Whether a cluster may end before text[index]; a shorter form of UAX #29 that splits too little, not too much."""
    before, after = text[index - 1], text[index]
    extends = unicodedata.category(after) in ("Mn", "Mc", "Me", "Cf") or 0x1F3FB <= ord(after) <= 0x1F3FF
    return not (extends or before in _JOINERS or _in_flag(text, index))


def _in_flag(text: str, index: int) -> bool:
    """Whether text[index] is the second letter of a flag, which is two regional indicators."""
    if not _is_flag_letter(text[index]):
        return False
    first = index
    while first > 0 and _is_flag_letter(text[first - 1]):
        first -= 1
    return (index - first) % 2 == 1


def _is_flag_letter(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF


def _forbidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or ord(character) in _NONCHARACTERS


def _has_glyph(character: str) -> bool:
    if unicodedata.category(character) in ("Cf", "Zs", "Zl", "Zp"):
        return True
    if 0xFE00 <= ord(character) <= 0xFE0F or 0xE0100 <= ord(character) <= 0xE01EF:
        return True
    starts, ends = _coverage()
    place = bisect_right(starts, ord(character)) - 1
    return place >= 0 and ord(character) <= ends[place]


@cache
def _coverage() -> tuple[list[int], list[int]]:
    """First and last code points of the ranges that the packaged fonts draw, ascending."""
    lines = (resources.files("vlm.export") / "fonts" / "coverage.txt").read_text(encoding="ascii").split()
    ranges = [[int(end, 16) for end in line.split("-")] for line in lines]
    return [pair[0] for pair in ranges], [pair[-1] for pair in ranges]
