"""Runs the worked example of docs/adapters.md: makes manuals of one kind, trains an adapter, judges it, keeps figures.

    python docs/examples/worked_example.py pedestal out/example --guides 200 --minutes 8.5
    python docs/examples/worked_example.py drafting out/example

Goes on where it was stopped: an adapter that is whole is not trained again. The ceiling is of true pictures after the
tokenizer's round trip. Sheets of pictures go into the folder, figures into docs/figures/adapters.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from manuals import KINDS, ceiling, judge_adapter, make, register_pedestal

from vlm.bundle import load_bundle

FIGURES = Path(__file__).parents[1] / "figures" / "adapters.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--guides", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--limit", type=int, default=20)
    arguments = parser.parse_args()
    kind, name = arguments.kind, f"{arguments.kind}-{arguments.guides}"
    if kind == "pedestal":
        register_pedestal()
    data, adapter = arguments.folder / name, arguments.folder / f"{name}-adapter"
    if not data.exists():
        make(kind, data, arguments.guides)
    if not adapter.exists():
        words = ["adapt", "train", str(data), "-o", str(adapter), "--minutes", str(arguments.minutes)]
        subprocess.run([sys.executable, "-m", "vlm", *words, "--validate-every", "60"], check=True)
    found = judge_adapter(kind, adapter, arguments.limit, arguments.folder / f"{name}.png")
    model, processor = load_bundle()
    found["ceiling"] = ceiling(kind, model, processor, arguments.limit)
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    figures[name] = {key: round(value, 3) for key, value in found.items()}
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
