"""The public HART release on the command line: `vlm convert`, and the drawing behind `vlm draw --hart`.

Knows the terminal and turns hart's errors into the user's. Does not know how anything is drawn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm.cli.reporting import Debug, printable, reporting
from vlm.errors import UserError


def convert(
    folder: Annotated[Path, typer.Argument(help="HART's llm folder, its tokenizer beside it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="HART's tokenizer folder, where it is not beside llm.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Store as float32, bfloat16 or float16; by default as it is.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is already there.")] = False,
    debug: Debug = False,
) -> None:
    """Write the public HART release as safetensors in this package's own layout: one folder, for --hart."""
    with reporting(debug):
        from vlm.devices import pick_dtype
        from vlm.files import output_folder

        precision = pick_dtype(dtype) if dtype is not None else None
        with output_folder(out, marker="transformer.safetensors", force=force) as staging, _users_errors():
            from hart.checkpoint import load_models, save_models

            models = load_models(folder, tokenizer=tokenizer, dtype=precision)
            for source in models.sources:
                typer.echo(f"Read {source.parent.name}/{source.name}")
            save_models(models, staging)
            size = sum(path.stat().st_size for path in staging.iterdir())
        typer.echo(f"Wrote {out} ({size / 1e6:.0f} MB)")


def draw_with_hart(
    prompt: str,
    hart_folder: Path,
    text_model: Path,
    out: Path,
    *,
    seed: int = 0,
    guidance: float = 4.5,
    size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    instructions: Path | None = None,
    stop_scale: int | None = None,
    top_k: int | None = None,
    top_p: float = 1.0,
    temperature: float = 1.0,
    smooth: bool = True,
    residual_steps: int | None = None,
    tokenizer: Path | None = None,
    moderator: Callable[[str], str | None] | None = None,
    quiet: bool = False,
) -> Any:
    """Draw one picture with HART and write it to the PNG file `out`, replacing it; progress goes to stderr.

    device: None for the best this machine has. dtype: None for float32 on a processor, else bfloat16. top_k:
    None for the release's. moderator: see `hart.TextToImage`. The rest as in `hart.DrawOptions`. Returns the
    `hart.picture.Picture`. Raises UserError.
    """
    from vlm.devices import pick_device, pick_dtype
    from vlm.files import output_file

    with output_file(out) as staging, _users_errors(), _own_words(quiet):
        from hart.prompts import read_instructions
        from hart.text_to_image import DrawOptions, TextToImage

        options = DrawOptions(
            guidance=guidance, size=size, stop_scale=stop_scale, top_k=top_k, top_p=top_p,
            temperature=temperature, smooth=smooth, residual_steps=residual_steps,
        )  # fmt: skip
        painter = TextToImage.from_pretrained(
            hart_folder,
            text_model,
            tokenizer=tokenizer,
            instructions=None if instructions is None else read_instructions(instructions),
            device=None if device is None else pick_device(device),
            dtype=None if dtype is None else pick_dtype(dtype),
            moderator=moderator,
        )
        if not quiet:
            for source in painter.sources:
                typer.echo(f"Read {printable(f'{source.parent.name}/{source.name}')}", err=True)
        picture = _drawn(painter, prompt, seed, options, quiet)
        picture.save(staging)
    return picture


def _drawn(painter: Any, prompt: str, seed: int, options: Any, quiet: bool) -> Any:
    from hart.picture import ImageDone, ImagePreview, ImageStarted

    def note(text: str, end: str = "\n") -> None:
        if not quiet:
            typer.echo(text + end, nl=False, err=True)

    started = time.monotonic()
    picture = None
    encoded = painter.encode(prompt)
    if encoded.cut[0]:
        # Said even when quiet: what was drawn is not all that was asked for.
        typer.echo(f"vlm: the prompt is too long, its last {encoded.cut[0]} tokens are left out", err=True)
    for event in painter.stream_encoded(encoded, seed, options):
        match event:
            case ImageStarted():
                note("  [picture] scale", end="")
            case ImagePreview(scale=scale, scales=scales):
                note(f" {scale + 1}/{scales}", end="")
            case ImageDone(picture=done):
                picture = done
                note(f", drawn in {time.monotonic() - started:.1f} s")
    assert picture is not None
    return picture


@contextmanager
def _users_errors() -> Iterator[None]:
    """hart says ValueError and DoesNotFit for what a user can mend; the command line says UserError."""
    from hart.memory import DoesNotFit

    try:
        yield
    except (ValueError, DoesNotFit) as error:
        raise UserError(str(error)) from error


@contextmanager
def _own_words(quiet: bool) -> Iterator[None]:
    """What libraries say by themselves: a long prompt is said in this command's own form, bars not when quiet."""
    from transformers.utils import logging as bars

    log = logging.getLogger("hart.prompts")
    level, shown = log.level, bars.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    if quiet:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            bars.enable_progress_bar()
