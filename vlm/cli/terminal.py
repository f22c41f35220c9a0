"""Pictures in the terminal, where it can show them: kitty's and iTerm2's protocols, else coloured half blocks.

Knows escape codes and the environment that tells of them. Knows no model.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

COLUMNS = 48
"""Width of a picture of half blocks, in characters."""

_CHUNK = 4096


def shown(image: Image.Image, environment: Mapping[str, str]) -> str:
    """What to print to show an RGB picture in a terminal with this environment; "" where it can show none."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if environment.get("NO_COLOR") or term in ("", "dumb"):
        return ""
    # Inside a multiplexer the protocols do not reach the terminal.
    if not term.startswith(("screen", "tmux")):
        if environment.get("KITTY_WINDOW_ID") or term == "xterm-kitty" or program == "ghostty":
            return _kitty(image)
        if program in ("iTerm.app", "WezTerm"):
            return _iterm(image)
    return _half_blocks(image) if environment.get("COLORTERM") in ("truecolor", "24bit") else ""


def _kitty(image: Image.Image) -> str:
    data = _base64_png(image)
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    codes = []
    for number, chunk in enumerate(chunks):
        head = "a=T,f=100," if number == 0 else ""
        codes.append(f"\x1b_G{head}m={int(number < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(codes) + "\n"


def _iterm(image: Image.Image) -> str:
    return f"\x1b]1337;File=inline=1;preserveAspectRatio=1:{_base64_png(image)}\x07\n"


def _half_blocks(image: Image.Image) -> str:
    """Two rows of pixels a line: the upper as the character's colour, the lower as its background."""
    rows = max(2, round(COLUMNS * image.height / image.width / 2) * 2)
    pixels = np.asarray(image.resize((COLUMNS, rows), Image.Resampling.BOX).convert("RGB")).reshape(-1, 3).tolist()
    lines = []
    for row in range(0, rows, 2):
        pairs = zip(
            pixels[row * COLUMNS : (row + 1) * COLUMNS], pixels[(row + 1) * COLUMNS : (row + 2) * COLUMNS], strict=True
        )
        cells = (f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀" for a, b in pairs)
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def _base64_png(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, format="PNG")
    return base64.b64encode(written.getvalue()).decode("ascii")
