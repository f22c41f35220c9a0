"""`vlm ask PICTURE QUESTION`: a picture and a question in, words out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.draw import check_target
from vlm.cli.options import Adapter, Bundle, Device, Precision, Seed, Temperature, adapted_agent_for, chosen
from vlm.cli.reporting import Debug, printable, reporting


def ask(
    picture: Annotated[Path, typer.Argument(help="The picture: PNG, JPEG, GIF, WebP or BMP.")],
    question: Annotated[str, typer.Argument(help='What to ask of it: "which step is this?"')],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG file for the picture that an answer may draw.")
    ] = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    adapter: Adapter = None,
    bundle: Bundle = None,
    device: Device = "cpu",
    dtype: Precision = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is already there.")] = False,
    debug: Debug = False,
) -> None:
    """Ask about a picture: which step it shows, what colour a part has, what comes next.

    The answer goes to standard output; what comes next is drawn too, and kept with --out. Exit codes: 0 answered; 1 the
    model failed; 2 bad input; 130 interrupted.
    """
    with reporting(debug):
        from vlm.prompt import check_prompt

        question = check_prompt(question)
        if out is not None:
            check_target(out, force)
        from vlm.message import check_message

        # Read before the model loads: a wrong path is told at once.
        check_message([picture])
        agent, name, known_by = adapted_agent_for(bundle, device, dtype, seed, adapter)
        from vlm.events import Event, ImageDone
        from vlm.files import output_file
        from vlm.png import PictureOrigin, write_png

        drawn: list[ImageDone] = []

        def watch(event: Event) -> None:
            if isinstance(event, ImageDone):
                drawn.append(event)

        answer = agent.ask(picture, question, on_event=watch, adapter=name, **chosen(temperature=temperature))
        typer.echo(printable(answer))
        if not drawn:
            return
        if out is None:
            typer.echo("A picture was drawn; --out FILE.png keeps it.", err=True)
            return
        with output_file(out) as staging:
            write_png(drawn[-1].image, staging, PictureOrigin(question, seed, known_by, 0))
        typer.echo(f"Wrote {out}", err=True)
