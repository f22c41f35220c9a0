"""Runs the worked example of docs/adapters.md: makes manuals of one kind, trains adapters, judges them, keeps figures.

    python docs/examples/worked_example.py pedestal out/example --guides 10 50 200 --minutes 8.5
    python docs/examples/worked_example.py drafting out/example

Goes on where it was stopped: an adapter that is whole is not trained again. The ceilings are of true pictures after the
tokenizer's round trip, with the bundle's decoder and with the adapter's; `forgotten` figures are of the base's own
evaluation, with the adapter off and on. Sheets of pictures go into the folder, figures into docs/figures/adapters.json,
under the kind and the number of guides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import torch
from manuals import KINDS, Shown, ceiling, judged, make, pedestals_known, picture_sheet

from adapters.evaluation import base_figures
from adapters.folder import WEIGHTS_FILE
from adapters.registry import Adapters
from vlm.bundle import fingerprint, load_bundle

FIGURES = Path(__file__).parents[1] / "figures" / "adapters.json"


def prepare(kind: str, folder: Path, guides: int, minutes: float) -> tuple[Path, float | None]:
    """The adapter that learns from so many manuals, and the minutes that its command took from start to end.

    Made only where it is not there; None for the minutes then.
    """
    data = folder / f"{kind}-{guides}"
    adapter = folder / f"{data.name}-adapter"
    if not (data / "world.json").exists():
        make(kind, data, guides)
    if adapter.exists():
        return adapter, None
    words = ["adapt", "train", str(data), "-o", str(adapter), "--minutes", str(minutes)]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "vlm", *words, "--validate-every", "200"], check=True)
    return adapter, (time.monotonic() - started) / 60


def forgetting(registry: Adapters, name: str, processor: Any, never: dict[str, float], limit: int) -> dict[str, float]:
    """The base's own evaluation with the adapter on; off, it must be what it was before any was loaded (`never`)."""
    on = base_figures(registry.model_for(name), processor, limit, 0)
    off = base_figures(registry.model_for(None), processor, limit, 0)
    if off != never:
        raise SystemExit(f"with the adapter off the base is not what it was: {off}, expected {never}")
    return {f"forgotten.off.{key}": never[key] - value for key, value in off.items()} | {
        f"forgotten.on.{key}": never[key] - value for key, value in on.items()
    }


def training(registry: Adapters, name: str, adapter: Path) -> dict[str, Any]:
    """What the adapter cost."""
    manifest = registry.stored(name).manifest
    return {
        "minutes": sum(run["minutes"] for run in manifest.record),
        "steps": sum(run["steps"] for run in manifest.record),
        "megabytes": (adapter / WEIGHTS_FILE).stat().st_size / 1e6,
        "base": manifest.base,
        "hardware": f"CPU, {torch.get_num_threads()} threads",
        "date": f"{date.today()}",
    }


def keep(name: str, found: dict[str, Any]) -> None:
    """Write the figures of one run beside those of others."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    figures[name] = {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--guides", type=int, nargs="+", default=[200])
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--limit", type=int, default=20, help="held-out products that are judged")
    parser.add_argument("--own-limit", type=int, default=10, help="products of the base's own evaluation")
    arguments = parser.parse_args()
    kind, folder, limit = arguments.kind, arguments.folder, arguments.limit
    model, processor = load_bundle()
    registry = Adapters(model, fingerprint(None))
    never = base_figures(model, processor, arguments.own_limit, 0)

    def known() -> Any:
        # Only while pedestals are made or judged: the base's own evaluation must not ask for them.
        return pedestals_known() if kind == "pedestal" else nullcontext()

    with known():
        before, shown_before = judged(kind, model, processor, limit)
        highest = ceiling(kind, model, processor, limit)
    for guides in arguments.guides:
        with known():
            adapter, whole = prepare(kind, folder, guides, arguments.minutes)
            name = registry.load(adapter)
            after, shown_after = judged(kind, registry.model_for(name), processor, limit)
            after["ceiling"] = ceiling(kind, registry.model_for(name), processor, limit)
            sheet(kind, shown_before, shown_after, processor.resolution, folder / f"{kind}-{guides}.png")
        found: dict[str, Any] = {f"before.{key}": value for key, value in before.items()}
        found |= {f"after.{key}": value for key, value in after.items()} | {"ceiling": highest}
        found |= forgetting(registry, name, processor, never, arguments.own_limit)
        found |= {} if whole is None else {"minutes_in_all": whole}
        keep(f"{kind}-{guides}", found | training(registry, name, adapter) | {"guides": guides})
        registry.unload(name)


def sheet(kind: str, before: list[Shown], after: list[Shown], size: int, target: Path) -> None:
    """Write the sheet of pictures before, after and true."""
    target.parent.mkdir(parents=True, exist_ok=True)
    picture_sheet(kind, before, after, size).save(target)


if __name__ == "__main__":
    main()
