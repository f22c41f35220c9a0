"""`vlm train tokenizer` and `vlm train model`: from a config file to weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.reporting import Debug, reporting
from vlm.errors import UserError

train_app = typer.Typer(help="Train the parts of a bundle from a config file.", no_args_is_help=True)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; by default the packaged one.")
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for checkpoints, curves, samples and weights.")
]
Override = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Change a setting: train.steps=100. Repeatable.")
]
Resume = Annotated[
    bool, typer.Option(help="Continue a checkpoint found in the folder; without, one is an error.")
]


@train_app.command("tokenizer")
def train_tokenizer(
    out: Out = Path("runs/tokenizer"),
    config: Config = None,
    override: Override = None,
    resume: Resume = True,
    debug: Debug = False,
) -> None:
    """Train the image tokenizer on rendered manuals."""
    with reporting(debug):
        from vlm.settings import load_settings, packaged_config
        from vlm.training.loop import leave_processes, train
        from vlm.training.tokenizer import TokenizerSettings, TokenizerTask

        settings = load_settings(config or packaged_config("tokenizer"), TokenizerSettings, override or ())
        _begin(out, resume)
        task = TokenizerTask(settings)
        train(task, settings.train, out, resume, task.earlier_runs())
        leave_processes()


@train_app.command("model")
def train_model(
    out: Out = Path("runs/model"),
    config: Config = None,
    override: Override = None,
    resume: Resume = True,
    debug: Debug = False,
) -> None:
    """Train the towers and heads on manuals, over a trained tokenizer; writes a bundle."""
    with reporting(debug):
        from vlm.settings import load_settings, packaged_config
        from vlm.training.loop import leave_processes, train
        from vlm.training.model import ModelSettings, ModelTask

        settings = load_settings(config or packaged_config("model"), ModelSettings, override or ())
        _begin(out, resume)
        task = ModelTask(settings)
        train(task, settings.train, out, resume, task.earlier_runs())
        leave_processes()


def _begin(out: Path, resume: bool) -> None:
    """Refuse a run that would be in another's way, and show the log lines of one that is not."""
    if not resume and (out / "checkpoint.pt").exists():
        raise UserError(
            f"{out} holds a checkpoint; choose another --out, or leave out --no-resume to continue it"
        )

    from rich.logging import RichHandler

    handler = RichHandler(
        show_path=False, show_level=False, omit_repeated_times=False, log_time_format="[%X]"
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
