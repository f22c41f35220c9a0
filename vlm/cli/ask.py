"""`vlm ask PICTURE QUESTION`: a picture and a question in, words out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.options import Adapter, Bundle, Device, Precision, Seed, Temperature, adapted_agent_for, chosen
from vlm.cli.reporting import Debug, printable, reporting


def ask(
    picture: Annotated[Path, typer.Argument(help="The picture: PNG, JPEG, GIF, WebP or BMP.")],
    question: Annotated[str, typer.Argument(help='What to ask of it: "which step is this?"')],
    seed: Seed = 0,
    temperature: Temperature = None,
    adapter: Adapter = None,
    bundle: Bundle = None,
    device: Device = "cpu",
    dtype: Precision = None,
    debug: Debug = False,
) -> None:
    """Ask about a picture: which step it shows, what colour a part has, what comes next.

    The answer goes to standard output. Exit codes: 0 answered; 1 the model failed; 2 bad input; 130 interrupted.
    """
    with reporting(debug):
        from vlm.prompt import check_prompt

        question = check_prompt(question)
        from vlm.message import check_message

        # Read before the model loads: a wrong path is told at once.
        check_message([picture])
        agent, name, _ = adapted_agent_for(bundle, device, dtype, seed, adapter)
        answer = agent.ask(picture, question, adapter=name, **chosen(temperature=temperature))
        typer.echo(printable(answer))
