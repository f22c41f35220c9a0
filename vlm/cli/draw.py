"""`vlm draw PROMPT`: words in, one picture out; from the bundled model, or from the public HART release."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm.cli.guide import slug
from vlm.cli.options import (
    Adapter,
    Bundle,
    Guidance,
    Precision,
    Quiet,
    Seed,
    Temperature,
    adapted_agent_for,
    chosen,
)
from vlm.cli.reporting import Debug, reporting
from vlm.errors import OutOfWorld, UserError


def draw(
    prompt: Annotated[str, typer.Argument(help='What to draw: "a red bench with two slats".')],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG file to write; by default out/ and the prompt's words.")
    ] = None,
    seed: Seed = 0,
    guidance: Guidance = None,
    temperature: Temperature = None,
    adapter: Adapter = None,
    bundle: Bundle = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run: cpu, cuda or mps; by default cpu, with --hart the best there is.")
    ] = None,
    dtype: Precision = None,
    hart: Annotated[
        Path | None, typer.Option("--hart", help="HART's llm folder: draw with the public release instead.")
    ] = None,
    text_model: Annotated[
        Path | None, typer.Option("--text-model", help="With --hart: folder of its Qwen2-VL text model.")
    ] = None,
    instructions: Annotated[
        Path | None, typer.Option("--instructions", help="With --hart: file of its instructions for prompts.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="With --hart: 256, 512 or 1024 pixels.")] = None,
    stop_scale: Annotated[
        int | None, typer.Option("--stop-scale", help="With --hart: stop at this scale, a quick preview.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is already there.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw one picture.

    Words go to standard output, the drawing's progress to standard error. Exit codes: 0 a picture was written; 1 the
    model failed; 2 bad input; 3 the model says that it does not know such a thing; 130 interrupted.
    """
    with reporting(debug):
        from vlm.prompt import check_prompt

        prompt = check_prompt(prompt)
        target = out or Path("out") / f"{slug(prompt)}.png"
        check_target(target, force)
        started = time.monotonic()
        if hart is not None:
            if text_model is None:
                raise UserError("--hart needs --text-model, the folder of the Qwen2-VL text model that goes with it")
            for name, value in {"adapter": adapter, "bundle": bundle, "temperature": temperature}.items():
                if value is not None:
                    raise UserError(f"--{name} is for the bundled model; leave it out with --hart")
            from vlm.cli.hart import draw_with_hart

            draw_with_hart(
                prompt, hart, text_model, target, seed=seed, size=size, device=device, dtype=dtype,
                instructions=instructions, stop_scale=stop_scale, quiet=quiet, **chosen(guidance=guidance),
            )  # fmt: skip
        else:
            given = {
                "text-model": text_model, "instructions": instructions, "size": size, "stop-scale": stop_scale,
            }  # fmt: skip
            for name in (name for name, value in given.items() if value is not None):
                raise UserError(f"--{name} is for the public release; pass --hart too, or leave it out")
            settings = chosen(guidance=guidance, temperature=temperature)
            _draw(prompt, target, seed, settings, adapter, bundle, device or "cpu", dtype, quiet)
        typer.echo(f"Wrote {target} ({time.monotonic() - started:.1f} s)", err=not quiet)


def check_target(target: Path, force: bool) -> None:
    """Raise `UserError` unless a picture may be written at `target`."""
    if target.suffix.lower() != ".png":
        raise UserError(f"{target} does not end in .png, expected a PNG file to write; choose another --out")
    if os.path.lexists(target) and not force:
        raise UserError(f"{target} exists; choose another --out, or pass --force to replace it")


def _draw(
    prompt: str,
    target: Path,
    seed: int,
    settings: dict[str, Any],
    adapter: Sequence[str] | None,
    bundle: Path | None,
    device: str,
    dtype: str | None,
    quiet: bool,
) -> None:
    from vlm.files import output_file

    # Entered before the model runs, so that no drawing is lost to a place that cannot be written.
    with output_file(target) as staging:
        agent, name, known_by = adapted_agent_for(bundle, device, dtype, seed, adapter)
        from vlm.cli.progress import AnswerPrinter
        from vlm.png import PictureOrigin, write_png

        show = AnswerPrinter(quiet)
        try:
            drawing = agent.draw(prompt, on_event=show, previews=False, adapter=name, **settings)
        except OutOfWorld as error:
            show.refused(error.answer)
            raise
        write_png(drawing.image, staging, PictureOrigin(prompt, drawing.seed, known_by, 0))
