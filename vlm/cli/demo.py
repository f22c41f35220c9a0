"""`vlm demo`: the chat in a browser."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.options import Device, Precision, Seed
from vlm.cli.reporting import Debug, reporting
from vlm.errors import UserError

if TYPE_CHECKING:
    from vlm.agent import ChatAgent

BUNDLED = "bundled model"


def demo(
    port: Annotated[int, typer.Option(help="Where the page is: http://127.0.0.1:PORT.", min=1, max=65535)] = 7860,
    models: Annotated[
        list[Path] | None, typer.Option("--bundle", help="Folder of another model to choose; may be given again.")
    ] = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Option("--adapter", help="An adapter, or a folder of adapters; those beside a --bundle are found."),
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", help="Where conversations are kept; nothing else may be in it.")
    ] = Path("out/web"),
    host: Annotated[str, typer.Option(help="Address to listen on; by default this machine alone.")] = "127.0.0.1",
    auth: Annotated[
        str | None, typer.Option(help="user:password that every visitor must give.", envvar="VLM_DEMO_AUTH")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="A public link, through Gradio's tunnel.")] = False,
    at_once: Annotated[int, typer.Option(help="Answers drawn at the same time; the others wait.", min=1, max=16)] = 1,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
    debug: Debug = False,
) -> None:
    """Chat in the browser, with pictures that grow while they are drawn. Ctrl-C ends it.

    Everything stays on this machine: the page asks no other host for anything. Exit codes: 0 ended by Ctrl-C; 2 bad
    input.
    """
    with reporting(debug):
        if importlib.util.find_spec("gradio") is None:
            raise UserError("the web demo needs gradio, which is not installed; run: pip install 'hart-vlm[demo]'")
        folders = {BUNDLED: None, **{_name(folder, number): folder for number, folder in enumerate(models or [])}}
        from adapters.answering import adapter_names, fitting_adapters, load_adapted_agent
        from vlm.bundle import bundle_path, check_bundle, fingerprint

        fitting: dict[str, tuple[Path, ...]] = {}
        for name, folder in folders.items():
            check_bundle(bundle_path(folder))
            beside = [] if folder is None else [folder.resolve().parent]
            fitting[name] = fitting_adapters(folder, [*(adapters or ()), *beside])
        _check_adapters(adapters or (), fitting, at_once)
        typer.echo("Loading ...", err=True)
        from demo.app import build_app
        from demo.menu import ModelMenu
        from demo.server import launch

        def loader(name: str) -> Callable[[], ChatAgent]:
            options = {"device": device, "dtype": dtype, "seed": seed}
            return lambda: load_adapted_agent(folders[name], fitting[name], **options)[0]

        offered = {name: adapter_names(found) for name, found in fitting.items()}
        known = {name: fingerprint(folder) for name, folder in folders.items()}
        menu = ModelMenu({name: loader(name) for name in folders}, offered, known)
        app = build_app(menu, data, at_once=at_once)
        address = launch(app, host=host, port=port, share=share, auth=auth, wait=False, root=data)
        typer.echo(f"Open {address} in a browser; Ctrl-C ends it.", err=True)
        app.block_thread()


def _check_adapters(given: Sequence[Path], fitting: Mapping[str, Sequence[Path]], at_once: int) -> None:
    """Refuse adapters that no model can use, and several answers at once on a model that adapters change."""
    used = {folder.resolve() for found in fitting.values() for folder in found}
    for place in given:
        if not any(place.resolve() in (folder, folder.parent) for folder in used):
            raise UserError(f"{place} holds no adapter of these models; see `vlm adapt train`")
    if used and at_once > 1:
        raise UserError(f"--at-once {at_once} needs a model without adapters; pass --at-once 1, or move the adapters")


def _name(folder: Path, number: int) -> str:
    """A folder as the menu shows it, its number before names that may be the same."""
    return f"{number + 1}. {folder.name}"
