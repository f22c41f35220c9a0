"""`vlm doctor`: what is here, what is wrong, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm.cli.options import Bundle, Device
from vlm.cli.reporting import Debug, one_line, reporting

MARKS = {"ok": "ok     ", "warning": "warning", "wrong": "WRONG  "}


def doctor(
    bundle: Bundle = None,
    device: Device = "cpu",
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Load the model, write and draw with it.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Check versions, devices, memory and the bundle, and run a short self-test.

    Exit codes: 0 nothing is wrong; 1 something is, and the line below it says what to do; 130 interrupted.
    """
    with reporting(debug):
        from vlm.doctor import examine

        wrong = 0
        for finding in examine(bundle, device, self_test):
            typer.echo(f"{MARKS[finding.state]}  {finding.name:10}  {one_line(finding.found)}")
            if finding.advice:
                typer.echo(f"{'':21}→ {one_line(finding.advice)}")
            wrong += finding.state == "wrong"
        if wrong:
            typer.echo(f"{wrong} of these must be mended before a guide can be drawn.")
            raise typer.Exit(1)
        typer.echo("All is well.")
