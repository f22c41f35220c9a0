"""`vlm export GUIDE`: a guide that was saved, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.reporting import Debug, reporting


def export(
    guide: Annotated[Path, typer.Argument(help="Folder of a saved guide, or its guide.json.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .pdf, .html or .zip file to write, or a folder.")
    ],
    formats: Annotated[
        str | None,
        typer.Option("--format", "-f", help="What a folder holds: some of html,pdf,md,json,zip; else html,md,json."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a guide that is already there.")] = False,
    debug: Debug = False,
) -> None:
    """Write a saved guide in another form; no model is asked. Exit codes: 0 written; 2 bad input."""
    with reporting(debug):
        from vlm.export.folder import parse_formats, save_guide
        from vlm.guide import Guide
        from vlm.png import open_png, read_origin
        from vlm.record import RECORD_FILE

        chosen = None if formats is None else parse_formats(formats)
        saved = Guide.load(guide)
        folder = guide if guide.is_dir() else guide.parent
        paths = [folder / step.image for step in saved.steps]
        record = folder / RECORD_FILE
        beside = {RECORD_FILE: record.read_text(encoding="utf-8")} if record.is_file() else {}
        seeds = [read_origin(path).seed for path in paths]
        first = save_guide(saved, [open_png(path) for path in paths], out, chosen, force, seeds=seeds, beside=beside)
        typer.echo(f"Wrote {first}")
