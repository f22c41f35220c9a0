"""Runs the worked example of docs/adapters.md: makes manuals, trains an adapter of each kind, judges, keeps figures.

    python docs/examples/worked_example.py out/example --guides 200 --minutes 15

Goes on where it was stopped: an adapter that is whole is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from manuals import KINDS, judge_adapter, make

FIGURES = Path(__file__).parents[1] / "figures" / "adapters.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--guides", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--limit", type=int, default=20)
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for kind in KINDS:
        data = arguments.folder / f"{kind}-{arguments.guides}"
        adapter = arguments.folder / f"{kind}-{arguments.guides}-adapter"
        if not data.exists():
            make(kind, data, arguments.guides)
        if not adapter.exists():
            words = ["adapt", "train", str(data), "-o", str(adapter), "--minutes", str(arguments.minutes)]
            subprocess.run([sys.executable, "-m", "vlm", *words], check=True)
        sheet = arguments.folder / f"{kind}.png"
        figures[f"{kind}-{arguments.guides}"] = judge_adapter(kind, adapter, arguments.limit, sheet)
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
