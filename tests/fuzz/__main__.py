"""`python -m tests.fuzz`: fuzz all targets, or some by name, and print a table in Markdown."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tests.fuzz.models import MODEL_TARGETS
from tests.fuzz.run import SECONDS, fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    """The exit code: 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="in all, shared evenly by the targets")
    parser.add_argument("--count", type=int, help="inputs of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="a target whose name contains this; repeatable")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for the files that failed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which a read counts as hung")
    options = parser.parse_args()
    if options.minutes is None and options.count is None:
        parser.error("say how long: --minutes or --count")
    logging.disable(logging.WARNING)
    every = (*TARGETS, *MODEL_TARGETS)
    chosen = [
        target for target in every if not options.only or any(name in target.name for name in options.only)
    ]
    if not chosen:
        parser.error(f"no such target, expected some of {', '.join(target.name for target in every)}")
    minutes = options.minutes / len(chosen) if options.minutes is not None else None
    failed = False
    print("| target | inputs | read | refused | failed | seconds | grown |\n|---|---|---|---|---|---|---|")
    for target in chosen:
        result = fuzz(
            target, count=options.count, minutes=minutes, seed=options.seed, keep=options.keep, seconds=options.seconds
        )
        print(
            f"| {result.name} | {result.inputs} | {result.read} | {result.refused} | {len(result.failures)} "
            f"| {result.seconds:.0f} | {result.grown >> 20} MiB |",
            flush=True,
        )
        for failure in result.failures:
            print(f"{result.name}: {failure}", file=sys.stderr, flush=True)
        failed = failed or bool(result.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
