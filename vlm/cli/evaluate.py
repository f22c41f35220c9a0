"""`vlm eval`: how true the model's guides are, on held-out products."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.reporting import Debug, reporting
from vlm.errors import UserError

FIGURES_FILE = "figures.json"


def evaluate(
    limit: Annotated[int, typer.Option(help="How many held-out products.", min=1)] = 50,
    seed: Annotated[
        int, typer.Option(help="Which products, and the seed of every draw.", min=0, max=2**63 - 1)
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page of pictures, drawn beside true, to this folder.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Folder of a model; by default the one that ships with vlm."),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the figures into the bundle's model card and renew its checksums.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, ...")] = "cpu",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a page and a file of figures that are already there.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure the bundle on products it has never seen."""
    with reporting(debug):
        from contextlib import ExitStack

        from vlm.bundle import bundle_path, check_bundle, fingerprint
        from vlm.files import output_file, output_folder

        folder = bundle_path(bundle)
        check_bundle(folder)
        # All that can be wrong, before the minutes that it takes.
        if card:
            from vlm.card import training_runs

            training_runs(folder)
        from vlm.devices import pick_device

        place = pick_device(device)
        another = "choose another --page, or pass --force to replace one that this command wrote"
        if json_file is not None and os.path.lexists(json_file) and not force:
            raise UserError(f"{json_file} exists; choose another --json, or pass --force to replace it")
        with ExitStack() as outputs:
            figures_file = outputs.enter_context(output_file(json_file)) if json_file else None
            page_folder = (
                outputs.enter_context(output_folder(page, marker=FIGURES_FILE, force=force, advice=another))
                if page
                else None
            )

            from vlm.bundle import load_bundle
            from vlm.evaluation import evaluate as measure

            model, processor = load_bundle(folder, device=place)
            figures = measure(model, processor, limit=limit, seed=seed, page=page_folder)
            if card:
                from vlm.card import write_card

                write_card(model, folder, figures, limit=limit, seed=seed)
            of = {"bundle": fingerprint(folder), "limit": limit, "seed": seed, "device": place.type}
            told = {"measured": {**of, "date": f"{date.today()}"}, **dict(sorted(figures.items()))}
            for file in (figures_file, page_folder and page_folder / FIGURES_FILE):
                if file is not None:
                    file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        for name, value in sorted(figures.items()):
            typer.echo(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")
