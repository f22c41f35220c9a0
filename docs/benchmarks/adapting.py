"""Size of an adapter, speed of training and memory, by rank.

    python docs/benchmarks/adapting.py my-manuals --steps 20 --json docs/figures/adapting.json

A process for each rank, since peak memory is a process's own. The first steps, which warm up, are not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from adapters.encoding import encode_examples, open_cache
from adapters.importers import load_examples
from adapters.lora import LoraSettings
from adapters.material import Material
from adapters.pictures import ShownPictures
from adapters.training import About, AdaptSettings, AdaptTask
from vlm.bundle import fingerprint, load_bundle
from vlm.training.settings import TrainSettings

WARM_UP = 3


def measure(data: Path, rank: int, steps: int, cache: Path, batch_size: int) -> dict[str, float]:
    """One rank, in this process."""
    model, processor = load_bundle()
    examples = load_examples(data).examples
    streams = encode_examples(examples, model, processor, open_cache(cache, model, processor))
    train = TrainSettings(steps=steps, batch_size=batch_size, device="cpu", precision="no")
    settings = AdaptSettings(lora=LoraSettings(rank=rank, alpha=2.0 * rank), rehearse=0.0, train=train)
    material = Material(streams[1:], streams[:1], pictures=ShownPictures(examples[1:], processor))
    task = AdaptTask(model, processor, material, settings, Path("none"), About("-"))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-4)
    batches = task.batches(0, batch_size, 0, 1)
    started = time.perf_counter()
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            started = time.perf_counter()
        loss, _ = task.loss(task.module, next(batches), torch.Generator().manual_seed(step), 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    size = sum(value.numel() * value.element_size() for value in task.module.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rank": rank, "megabytes": size / 1e6, "guides_per_s": steps * batch_size / seconds, "peak_gb": peak / 1e9
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--json", type=Path, help="also write the figures there, with hardware and date")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cache is not None:
        rank, steps = arguments.ranks[0], arguments.steps
        print(json.dumps(measure(arguments.data, rank, steps, arguments.cache, arguments.batch_size)))
        return
    print("| rank | adapter, MB | guides/s | peak memory, GB |\n|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for rank in arguments.ranks:
            command = [sys.executable, __file__, str(arguments.data), "--cache", cache, "--ranks", str(rank)]
            command += ["--steps", str(arguments.steps), "--batch-size", str(arguments.batch_size)]
            one = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rows.append(one)
            print(f"| {rank} | {one['megabytes']:.1f} | {one['guides_per_s']:.2f} | {one['peak_gb']:.2f} |", flush=True)
    if arguments.json is not None:
        told = {
            "hardware": f"CPU, {torch.get_num_threads()} threads", "date": f"{date.today()}",
            "torch": str(torch.__version__), "base": fingerprint(None), "precision": "float32",
            "batch_size": arguments.batch_size, "steps": arguments.steps, "ranks": rows,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
