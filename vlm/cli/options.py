"""Options that several commands share, and what they load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vlm.agent import ChatAgent

Seed = Annotated[int, typer.Option(help="Same seed, same model, same machine: same bytes.", min=0, max=2**63 - 1)]
Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="Folder of a model; by default the one that ships with vlm.")
]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda or mps.")]
Precision = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16 or float16; by default float32, with --hart on a GPU bfloat16."),
]
Guidance = Annotated[
    float | None, typer.Option(help="How strictly pictures follow the words; 0 is neutral.", min=0, max=20)
]
Temperature = Annotated[float | None, typer.Option(help="Of the words; 0 always takes the likeliest.", min=0, max=10)]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER[=WEIGHT]",
        help="Folder of an adapter, see `vlm adapt`; =0.5 halves it. Given again, several add up.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing while it runs.")]


def agent_for(bundle: Path | None, device: str, dtype: str | None, seed: int) -> ChatAgent:
    """The agent that the shared options describe. A damaged bundle is refused before anything heavy loads."""
    from vlm.bundle import bundle_path, check_bundle

    check_bundle(bundle_path(bundle))
    from vlm.agent import load_agent

    return load_agent(bundle, device=device, dtype=dtype, seed=seed)


def adapted_agent_for(
    bundle: Path | None, device: str, dtype: str | None, seed: int, adapter: Sequence[str] | None
) -> tuple[ChatAgent, str | None, str]:
    """The agent that the shared options describe, the name of its adapters together if any is asked for, and what they
    are known by: the fingerprint that pictures carry.
    """
    if not adapter:
        agent = agent_for(bundle, device, dtype, seed)
        return agent, None, agent.fingerprint
    from adapters.answering import load_combined_agent, parse_choice
    from vlm.bundle import bundle_path, check_bundle

    choices = [parse_choice(one) for one in adapter]
    check_bundle(bundle_path(bundle))
    agent, adapters, name = load_combined_agent(bundle, choices, device=device, dtype=dtype, seed=seed)
    return agent, name, adapters.fingerprint_of(name)


def chosen(**settings: float | None) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {name: value for name, value in settings.items() if value is not None}
