"""`vlm guide PROMPT`: one prompt in, one illustrated guide out."""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.options import Adapter, Bundle, Device, Precision, Quiet, Seed, adapted_agent_for
from vlm.cli.reporting import Debug, reporting
from vlm.errors import OutOfWorld, UserError

MAX_INPUT_BYTES = 1 << 20


def guide(
    prompt: Annotated[str, typer.Argument(help='What to explain; "-" reads it from standard input.')],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to write, by default out/ and the prompt's words; or a .pdf, .html or .zip file.",
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format", "-f", help="What the folder holds: some of html,pdf,md,json,zip; by default html,md,json."
        ),
    ] = None,
    seed: Seed = 0,
    bundle: Bundle = None,
    adapter: Adapter = None,
    device: Device = "cpu",
    dtype: Precision = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a guide that is already there.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write an illustrated guide: text and pictures from the same model.

    Text goes to standard output, the pictures' progress to standard error. Exit codes: 0 a guide was written;
    1 the model failed; 2 bad input; 3 the prompt is outside what the model knows; 130 interrupted.
    """
    with reporting(debug):
        started = time.monotonic()
        path, steps = _write_guide(prompt, out, formats, seed, bundle, adapter, device, dtype, force, quiet)
        typer.echo(f"Wrote {path} ({steps} steps, {time.monotonic() - started:.1f} s)", err=not quiet)


def _write_guide(
    prompt: str,
    out: Path | None,
    formats: str | None,
    seed: int,
    bundle: Path | None,
    adapter: Sequence[str] | None,
    device: str,
    dtype: str | None,
    force: bool,
    quiet: bool,
) -> tuple[Path, int]:
    from vlm.prompt import check_prompt

    prompt = check_prompt(_read_input() if prompt == "-" else prompt)
    target = out or Path("out") / slug(prompt)

    from vlm.bundle import bundle_path, check_bundle
    from vlm.export.folder import destination, first_file, parse_formats

    chosen = None if formats is None else parse_formats(formats)
    check_bundle(bundle_path(bundle))
    # Entered before the model runs, so that no drawing is lost to a place that cannot be written.
    with destination(target, chosen, force) as write:
        from vlm.cli.progress import AnswerPrinter

        show = AnswerPrinter(quiet)
        try:
            agent, name, _ = adapted_agent_for(bundle, device, dtype, seed, adapter)
            made = agent.guide(prompt, on_event=show, previews=False, adapter=name)
            write(made.guide, made.pictures, seeds=made.seeds, beside=made.beside)
        except OutOfWorld as error:
            show.refused(error.answer)
            raise
    return first_file(target, chosen), len(made.guide.steps)


def _read_input() -> str:
    raw = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(raw) > MAX_INPUT_BYTES:
        raise UserError(f"standard input has more than {MAX_INPUT_BYTES:,} bytes, expected a sentence or two")
    # Bytes that are no UTF-8 stay visible as surrogates, and the check of the prompt names them.
    return raw.decode("utf-8", errors="surrogateescape")


def slug(prompt: str, longest: int = 60) -> str:
    """The prompt's words as a folder's name: "How do I …?" is "how-do-i"; "guide" where nothing is left."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > longest:
        words = words[: longest + 1].rpartition("-")[0] or words[:longest]
    return words or "guide"
