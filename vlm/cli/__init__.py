"""The command line `vlm`: the one place that puts packages together and talks to a terminal.

Each command is a module and imports what it runs inside the command, so that `vlm --help` stays quick.
"""

from __future__ import annotations

import io
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from vlm.cli.adapt import adapt_app
from vlm.cli.ask import ask
from vlm.cli.chat import chat
from vlm.cli.demo import demo
from vlm.cli.doctor import doctor
from vlm.cli.draw import draw
from vlm.cli.evaluate import evaluate
from vlm.cli.export import export
from vlm.cli.guide import guide
from vlm.cli.hart import convert
from vlm.cli.train import train_app

app = typer.Typer(
    name="vlm",
    help="A model that answers with text and the pictures it draws: illustrated guides, on a laptop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hart-vlm {metadata.version('hart-vlm')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("chat")(chat)
app.command("guide")(guide)
app.command("draw")(draw)
app.command("ask")(ask)
app.command("export")(export)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.add_typer(train_app, name="train")
app.add_typer(adapt_app, name="adapt")
app.command("eval")(evaluate)
app.command("convert")(convert)


def run() -> None:
    """Run the command that was asked for; ends in SystemExit."""
    # Loading takes a second; its progress bar would only break into the answer.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows a question mark; the answer goes on.
            stream.reconfigure(errors="replace")
    app()
