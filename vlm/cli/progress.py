"""A running answer in the terminal: the text on standard output, the pictures' scales on standard error.

Only ever appends, so it reads the same on a terminal, in a pipe and in a log.
"""

from __future__ import annotations

import time

import typer

from vlm.cli.reporting import printable
from vlm.events import Event, Finished, ImageDone, ImagePreview, ImageStarted, TextDelta


class AnswerPrinter:
    """Shows the events it is called with; `quiet` shows none of them. said: the answer's text so far."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.said = ""
        self._at_line_start = True
        self._after_picture = False
        self._started = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case TextDelta(text=text):
                self.said += text
                self._say(printable(text))
            case ImageStarted(index=index):
                self._started = time.monotonic()
                self._new_line()
                self._note(f"  [picture {index + 1}] scale", end="")
            case ImagePreview(scale=scale, scales=scales):
                self._note(f" {scale + 1}/{scales}", end="")
            case ImageDone():
                self._note(f", drawn in {time.monotonic() - self._started:.1f} s")
                self._after_picture = True
            case Finished():
                self._new_line()

    def refused(self, answer: str) -> None:
        """Show what is said in the place of an answer, unless it was shown as the answer came."""
        if self.quiet or answer.strip() != self.said.strip():
            typer.echo(printable(answer))

    def _say(self, text: str) -> None:
        if self._after_picture:
            # The note of the picture has ended the line that this would end.
            text = text.removeprefix("\n")
            self._after_picture = False
        if text and not self.quiet:
            typer.echo(text, nl=False)
            self._at_line_start = text.endswith("\n")

    def _new_line(self) -> None:
        if not self._at_line_start:
            self._say("\n")

    def _note(self, text: str, end: str = "\n") -> None:
        if not self.quiet:
            typer.echo(text + end, nl=False, err=True)
