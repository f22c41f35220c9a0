"""The command line `vlm`: the one place that puts packages together and talks to a terminal.

Each command is a module and imports what it runs inside the command, so that `vlm --help` stays quick.
"""

from __future__ import annotations

import io
import os
import sys

import typer

from vlm.cli.evaluate import evaluate
from vlm.cli.guide import guide
from vlm.cli.train import train_app

app = typer.Typer(
    name="vlm",
    help="A model that answers with text and the pictures it draws: illustrated guides, on a laptop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("guide")(guide)
app.add_typer(train_app, name="train")
app.command("eval")(evaluate)


def main() -> None:
    """The entry point of the console script."""
    # Loading takes a second; its progress bar would only break into the answer.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows a question mark; the answer goes on.
            stream.reconfigure(errors="replace")
    app()
