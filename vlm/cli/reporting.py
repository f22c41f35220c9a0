"""Errors as a user sees them: one line on standard error, an exit code, a traceback only with `--debug`."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from vlm.errors import GuideError, UserError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

INTERRUPTED = 130


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Turn what the body raises into a line and an exit code.

    `UserError` (and a file that cannot be used) is 2, `OutOfWorld` 3, Ctrl-C 130, anything else 1.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nvlm: stopped; nothing was left half-written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output has gone, as it may. Keep Python from complaining at exit.
        sys.stdout = None  # type: ignore[assignment]
        raise typer.Exit(1) from None
    except (UserError, OSError) as error:
        if debug:
            raise
        typer.echo(f"vlm: {one_line(str(error))}", err=True)
        raise typer.Exit(getattr(error, "exit_code", UserError.exit_code)) from None
    except GuideError as error:
        if debug:
            raise
        typer.echo(
            f"vlm: the model's answer is not a guide: {one_line(str(error))}; try another --seed", err=True
        )
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        typer.echo(
            f"vlm: unexpected {type(error).__name__}: {one_line(str(error))} (--debug shows where)", err=True
        )
        raise typer.Exit(1) from None


def one_line(text: str) -> str:
    """`text` on one line, without characters that could steer a terminal."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """`text` with control characters other than line feeds, and lone surrogates, replaced by U+FFFD."""
    return "".join(
        character if character == "\n" or unicodedata.category(character) not in ("Cc", "Cs") else "\ufffd"
        for character in text
    )
