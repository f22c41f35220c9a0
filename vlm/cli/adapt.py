"""`vlm adapt check | train | eval | merge | convert`: teach the model your own manuals."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm.cli.options import Bundle, Device
from vlm.cli.reporting import Debug, printable, reporting
from vlm.errors import UserError

if TYPE_CHECKING:
    from vlm.model import HartVLM
    from vlm.processor import StreamProcessor
    from vlm.stream import Conversation

adapt_app = typer.Typer(help="Teach the model your own manuals with a small adapter.", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(help="A folder of manuals (Markdown, guide.json, .jsonl) or a .jsonl file.")]
Folder = Annotated[Path, typer.Argument(help="Folder of an adapter.")]
Share = Annotated[float, typer.Option("--held-out", help="Share of the examples that are only tested on.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run wrote.")]


@adapt_app.command("check")
def check(
    data: Data,
    pictures: Annotated[
        Path | None, typer.Option(help="PNG to write: the sample's pictures, below them as the model sees them.")
    ] = None,
    bundle: Bundle = None,
    debug: Debug = False,
) -> None:
    """Say what the data holds, show one example as the model will see it, and name everything that is broken.

    Exit codes: 0 all can be used; 2 something is broken, or there is too little.
    """
    with reporting(debug):
        from adapters.encoding import encode_examples, measure, misfits, oddities, open_cache, picture_sheet, shown
        from adapters.importers import load_examples
        from vlm.bundle import load_bundle
        from vlm.files import output_file

        if pictures is not None and os.path.lexists(pictures):
            raise UserError(f"{pictures} exists, expected a new file to write; choose another --pictures")
        found = load_examples(data)
        model, processor = load_bundle(bundle)
        faults = [*found.faults, *misfits(found.examples, processor)]
        sizes = [measure(example, processor) for example in found.examples]
        for name, count in found.kinds.items():
            typer.echo(f"{count} {name}")
        if sizes:
            drawn, said = sum(size.pictures for size in sizes), sum(size.text for size in sizes)
            typer.echo(f"{drawn} pictures, {said:,} ids of text")
            limit = model.config.text_tower.max_position_embeddings
            longest = max(range(len(sizes)), key=lambda index: sizes[index].positions)
            typer.echo(
                f"longest: {found.examples[longest].place}, {sizes[longest].positions:,} of {limit:,} positions"
            )
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                cache = open_cache(Path(folder), model, processor)
                example = found.examples[0]
                stream = encode_examples([example], model, processor, cache)[0]
            typer.echo(f"\n{example.place} as the model sees it; what it learns stands between the brackets:\n")
            typer.echo(printable(shown(stream, processor)) + "\n")
            if pictures is not None:
                with output_file(pictures) as staging:
                    picture_sheet(stream, example, model, processor).save(staging, format="PNG")
        _tell_unread(found.unread)
        for example in found.examples:
            for oddity in oddities(example):
                typer.echo(f"note: {printable(f'{example.place}: {oddity}')}")
        for fault in faults:
            typer.echo(f"broken: {printable(str(fault))}", err=True)
        if faults:
            raise UserError(f"{len(faults)} broken, see above; mend them, nothing is left out silently")
        found.check_whole()


@adapt_app.command("train")
def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the adapter to write.")],
    places: Annotated[
        str, typer.Option("--train", help="What is trained: some of text,image,residual,decoder.")
    ] = "text,image,residual,decoder",
    rank: Annotated[int, typer.Option(help="Of the updates; the size grows with it.")] = 16,
    alpha: Annotated[float | None, typer.Option(help="Strength of the updates; by default twice the rank.")] = None,
    dropout: Annotated[float, typer.Option(help="Share of inputs dropped while training.")] = 0.0,
    rslora: Annotated[bool, typer.Option("--rslora", help="Divide by the root of the rank: for high ranks.")] = False,
    minutes: Annotated[float, typer.Option(help="Stop after so many minutes of training; 0: no such limit.")] = 15.0,
    max_steps: Annotated[int, typer.Option(help="Stop after so many steps; 0: no such limit.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples per step, process and accumulation.")] = 2,
    accumulate: Annotated[int, typer.Option(help="Batches per step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 4e-3,
    rehearse: Annotated[
        float, typer.Option(help="Share of the flatpack world, against forgetting; 0 if the model never knew it.")
    ] = 0.5,
    coarse_emphasis: Annotated[
        float, typer.Option(help="How much a picture's first, coarse codes count, 0 to 1: they decide its style.")
    ] = 0.8,
    patience: Annotated[int, typer.Option(help="Stop after so many validations without gain; 0: never.")] = 5,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 100,
    held_out: Share = 0.1,
    precision: Annotated[str, typer.Option(help="auto, no or bf16.")] = "auto",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Run each layer twice a step, to save memory: for large models.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Continue the run found beside the adapter.")] = True,
    seed: Annotated[int, typer.Option(help="Of every draw.", min=0)] = 0,
    bundle: Bundle = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Train an adapter on your manuals. Checkpoints, curves and samples are kept in OUT.training.

    Several processes: torchrun --nproc-per-node N -m vlm adapt train …
    """
    with reporting(debug):
        if minutes <= 0 and max_steps <= 0:
            raise UserError("a run needs an end: set --minutes or --max-steps above 0")
        _show_log()

        from adapters.encoding import misfits, rehearsal
        from adapters.folder import World
        from adapters.held_out import split
        from adapters.importers import load_examples
        from adapters.lora import LoraSettings
        from adapters.pictures import ShownPictures, world_pictures
        from adapters.targets import parse_places
        from adapters.training import (
            About,
            AdaptSettings,
            Material,
            check_way,
            processes,
            run_folder,
            train_adapter,
        )  # fmt: skip
        from vlm.bundle import fingerprint, load_bundle
        from vlm.training.loop import leave_processes
        from vlm.training.settings import TrainSettings

        lora = LoraSettings(parse_places(places), rank, 2.0 * rank if alpha is None else alpha, dropout, rslora)
        usual = AdaptSettings()
        try:
            loop = TrainSettings(
                steps=max_steps, minutes=minutes, batch_size=batch_size, accumulate=accumulate,
                learning_rate=learning_rate, warmup=usual.train.warmup, weight_decay=usual.train.weight_decay,
                betas=usual.train.betas, average=usual.train.average, precision=precision, device=device, seed=seed,
                validate_every=validate_every, save_minutes=usual.train.save_minutes, log_every=10,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(str(error)) from error
        settings = AdaptSettings(
            lora, rehearse, patience, coarse_emphasis=coarse_emphasis, checkpointing=checkpointing, train=loop
        )
        check_way(out, resume=resume, force=force)
        found = load_examples(data)
        found.check_whole()
        base = fingerprint(bundle)
        model, processor = load_bundle(bundle)
        found.faults += misfits(found.examples, processor)
        found.check_whole()
        _tell_unread(found.unread)
        names = [example.name() for example in found.examples]
        learnt, tested = split(names, held_out)
        cache = _cache(run_folder(out), model, processor)
        # The others find in the cache what the first has encoded.
        with processes(settings).main_process_first():
            streams = _encode(found.examples, model, processor, cache)
            known = rehearsal(min(2 * len(learnt), 400) if rehearse else 0, seed, model, processor, cache)
        material = Material(
            [streams[i] for i in learnt],
            [streams[i] for i in tested],
            known,
            ShownPictures([found.examples[i] for i in learnt], processor),
            ShownPictures([found.examples[i] for i in tested], processor),
            world_pictures(processor, seed) if rehearse else None,
        )
        about = About(
            base=base,
            command=_command(),
            world=World(name=found.title or out.name, colours=tuple(sorted(found.colours)), outside=found.outside),
            data={**found.kinds, "held out": len(tested)},
            held_out=tuple(names[i] for i in tested),
        )
        train_adapter(model, processor, material, settings, out, about, resume=resume, force=force)
        leave_processes()
        typer.echo(f"Wrote {out}")


@adapt_app.command("eval")
def evaluate(
    adapter: Folder,
    data: Data,
    limit: Annotated[int, typer.Option(help="How many guides of each kind are answered freely.", min=0)] = 10,
    seed: Annotated[int, typer.Option(help="Which of the base's products, and every draw.", min=0)] = 0,
    bundle: Bundle = None,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Compare the model without and with the adapter: on your held-out examples, and on its own evaluation."""
    with reporting(debug):
        import tempfile

        from adapters.encoding import encode_examples, open_cache
        from adapters.evaluation import compare, table
        from adapters.importers import load_examples

        model, processor, registry, name = _loaded(adapter, bundle, device)
        found = load_examples(data)
        if found.faults:
            raise UserError(f"{found.faults[0]}; mend the data first")
        kept = set(registry.stored(name).manifest.held_out)
        examples = [example for example in found.examples if example.name() in kept]
        if not examples:
            raise UserError(f"{data} holds none of the examples that this adapter's training held out; pass that data")
        with tempfile.TemporaryDirectory() as folder:
            streams = encode_examples(examples, model, processor, open_cache(Path(folder), model, processor))
        rows = compare(
            model, registry.model_for(name), processor, examples, streams, limit=limit, seed=seed,
            on_model=lambda which: typer.echo(f"measuring {which} …", err=True),
        )  # fmt: skip
        typer.echo(table(rows))


@adapt_app.command("merge")
def merge(
    adapter: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new model.")],
    bundle: Bundle = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Write a plain model whose weights hold the adapter: for --bundle, with no adapter to load."""
    with reporting(debug):
        from adapters.disk import writing
        from vlm.bundle import RECORD_FILE, bundle_path
        from vlm.checksums import write_checksums
        from vlm.files import output_folder

        _, processor, registry, name = _loaded(adapter, bundle, "cpu")
        with (
            writing(out, "make room, or choose another folder"),
            output_folder(out, marker="stream_processor.json", force=force) as staging,
        ):
            registry.merged(name).save_pretrained(staging, max_shard_size="1GB")
            processor.save_pretrained(staging)
            record = bundle_path(bundle) / RECORD_FILE
            if record.is_file():
                (staging / RECORD_FILE).write_bytes(record.read_bytes())
            write_checksums(staging)
        typer.echo(f"Wrote {out}")


@adapt_app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="LLaVA or ShareGPT conversations, .json or .jsonl.")],
    target: Annotated[Path, typer.Argument(help="The .jsonl to write; pictures are relative to it.")],
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Rewrite LLaVA / ShareGPT conversations as the JSON lines that `train` reads."""
    with reporting(debug):
        from adapters.importers import convert_llava

        typer.echo(f"Wrote {target} ({convert_llava(source, target, force)} conversations)")


def _loaded(adapter: Path, bundle: Path | None, device: str) -> tuple[HartVLM, StreamProcessor, Any, str]:
    """The base, its processor, its adapters, and the name of the one that was loaded."""
    from adapters.registry import Adapters
    from vlm.bundle import fingerprint, load_bundle

    model, processor = load_bundle(bundle, device=device)
    registry = Adapters(model, fingerprint(bundle))
    return model, processor, registry, registry.load(adapter)


def _tell_unread(names: list[str]) -> None:
    """One line on files that are neither manuals nor pictures of one: nothing is left out silently."""
    if names:
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        typer.echo(f"note: {len(names)} file{'s' * (len(names) != 1)} not read ({printable(some)})", err=True)


def _cache(folder: Path, model: HartVLM, processor: StreamProcessor) -> Any:
    from adapters.encoding import open_cache

    return open_cache(folder / "cache", model, processor)


def _encode(examples: list[Any], model: HartVLM, processor: StreamProcessor, cache: Any) -> list[Conversation]:
    from adapters.encoding import encode_examples

    step = max(1, len(examples) // 10)

    def tell(done: int) -> None:
        if done % step == 0 or done == len(examples):
            typer.echo(f"read {done} of {len(examples)} examples", err=True)

    return encode_examples(examples, model, processor, cache, tell)


def _command() -> str:
    """The command line without the places of this machine: of each path only its last part."""
    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(option + equals + (Path(value).name or value))
    return shlex.join(["vlm", *words])


def _show_log() -> None:
    import logging

    from rich.logging import RichHandler

    handler = RichHandler(show_path=False, show_level=False, omit_repeated_times=False, log_time_format="[%X]")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
