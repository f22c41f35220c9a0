"""Damage for files: bytes flipped, cut, doubled and mixed; values of JSON and YAML replaced by awkward ones.

Everything is drawn from the given generator, so a seed is a file.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import yaml

AWKWARD_BYTES = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80", b"\n", b"{", b"\xef\xbb\xbf")
AWKWARD_YAML = (
    b"2026-99-99 #", b"1" * 5000 + b" #", b"[" * 900, b"&a [*a] #", b"!!python/object/apply:os.getpid [] #",
    b"!!binary x", b"190:20:30.15", b"{? [1]: 2} #", b"<<: 3", b"%TAG ! x", b"\t", b"- ", b"*none",
)  # fmt: skip
AWKWARD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308,
    float("nan"), float("inf"),
    "", " ", "\x00", "a\x00b", "\u202e", "🪑" * 50, "x" * 5000, "../../etc/passwd", "/etc/passwd", "C:\\x", "<|boi|>",
    "\ud83e", "\ufffc", "true", "1e5", [], {}, [[]], [None], {"": None}, {"a": {"b": [1, 2]}}, list(range(300)),
)  # fmt: skip


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """`data` after one to six accidents; some take a piece of one of the `others`."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_ACCIDENTS)(rng, content, others)
    return bytes(content)


def _flip(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        piece = rng.choice(AWKWARD_BYTES)
        place = rng.randrange(len(content))
        content[place : place + len(piece)] = piece


def _noise(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        place = rng.randrange(len(content))
        content[place : place + rng.randint(1, 16)] = rng.randbytes(rng.randint(0, 16))


def _truncate(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        del content[rng.randrange(len(content)) :]


def _remove(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        place = rng.randrange(len(content))
        del content[place : place + rng.randint(1, 40)]


def _double(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        place = rng.randrange(len(content))
        piece = content[place : place + rng.randint(1, 200)]
        content[place:place] = piece * rng.randint(1, 20)


def _mix(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    place = rng.randrange(len(content) + 1)
    content[place : place + rng.randint(0, 60)] = other[start : start + rng.randint(1, 200)]


_ACCIDENTS: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _flip, _overwrite, _noise, _truncate, _remove, _double, _mix,
)  # fmt: skip


def mutate_json(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """JSON with one to three values changed, or, one time in four, its bytes damaged; seldom a bottomless nest."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, data, others)
    if rng.random() < 0.01:
        return rng.choice((b"[", b'{"a":', data[:-1].rstrip(b"} \n") + b',"x":[')) * rng.choice((900, 5000))
    return json.dumps(mutate_value(rng, json.loads(data))).encode("utf-8")


def mutate_yaml(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """YAML with one to three values changed, or, one time in four, its bytes damaged; seldom what only YAML has."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, data, others)
    if rng.random() < 0.02:
        return data.replace(b": ", b": " + rng.choice(AWKWARD_YAML), 1)
    value = mutate_value(rng, yaml.safe_load(data))
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", errors="surrogatepass")


def mutate_value(rng: random.Random, value: Any) -> Any:
    """A tree of dicts and lists, changed in place where it can be; what is returned is the changed tree."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return _awkward(rng, value)
        holder, key = rng.choice(places)
        what = rng.random()
        if what < 0.6:
            holder[key] = _awkward(rng, holder[key])
        elif what < 0.75:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, rng.choice((holder[key], _awkward(rng, holder[key]))))
        elif what < 0.85:
            holder[str(key) + rng.choice(("", "x", "\x00"))] = _awkward(rng, holder[key])
        else:
            other, place = rng.choice(places)
            # A copy, or the tree could come to hold itself.
            holder[key] = copy.deepcopy(other[place])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (dict or list, key) below a value."""
    found: list[tuple[Any, Any]] = []
    for key in _keys(value):
        found.append((value, key))
        found += _places(value[key])
    return found


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _awkward(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or rng.random() < 0.5:
        # Copied, since what is handed out is changed later.
        return copy.deepcopy(rng.choice(AWKWARD_VALUES))
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value // 2, float(value), str(value)))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e9, 0.0, str(value), round(value) if abs(value) < 1e18 else 0))
    if isinstance(value, str):
        return rng.choice((value * 2, value[: len(value) // 2], value + "\n", value.upper(), [value], value[::-1]))
    return copy.deepcopy(rng.choice(AWKWARD_VALUES))
