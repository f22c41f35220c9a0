"""Records a session of `vlm chat` on a real pseudo-terminal, as docs/terminal-session.md shows it.

    python docs/benchmarks/terminal_session.py docs/terminal-session.md

Each line is typed when the program asks for the next one. Runs on Linux and macOS.
"""

from __future__ import annotations

import os
import pty
import re
import sys
import tempfile
from datetime import date
from pathlib import Path

LINES = (
    "hello",
    "How do I assemble a blue stool with three legs?",
    "the same in green",
    "/redraw 2",
    "How do I fix my bicycle?",
    "/guide stool.pdf",
)
PROMPT = b"> "


def record(folder: str) -> str:
    """All that the terminal showed."""
    child, master = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", COLUMNS="100")
        os.execv(sys.executable, [sys.executable, "-m", "vlm", "chat", "talk", "--seed", "1"])
    shown, typed = b"", list(LINES)
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
        if shown.endswith(PROMPT):
            os.write(master, (typed.pop(0) + "\n").encode() if typed else b"\x04")
    os.waitpid(child, 0)
    return shown.decode(errors="replace")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = record(folder)
        kept = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r\n", "\n"))
    # A line that is drawn over shows as it ended.
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
    shown, left = "\n".join(lines).strip(), "\n".join(kept)
    Path(sys.argv[1]).write_text(
        "# A session in the terminal\n\n`vlm chat talk --seed 1`, recorded by `python docs/benchmarks/"
        f"terminal_session.py docs/terminal-session.md`, {date.today()}, 2 CPU cores. Lines after `>` were typed.\n\n"
        f"```text\n{shown}\n```\n\nFiles that it left:\n\n```text\n{left}\n```\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
