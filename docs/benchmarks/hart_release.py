"""HART-0.7B at its real size with random weights: time, memory, parameters, printed and written as JSON.

    python docs/benchmarks/hart_release.py --size 256
    python docs/benchmarks/hart_release.py --size 1024 --device cuda --dtype bfloat16 --runs 2
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hart.memory import GIB, device_bytes, drawing_bytes
from hart.picture import ImageDone, ImagePreview
from hart.presets import SCHEDULES, count_parameters, hart_0_7b, random_models, random_prompts
from hart.text_to_image import DrawOptions, TextToImage

FIGURES = Path(__file__).parents[1] / "figures"


def host_peak() -> float:
    """Largest resident memory so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def now(device: torch.device) -> float:
    """Seconds, with everything that was asked of the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build and draw; what is returned is of the last run, those before warm up."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    began = now(device)
    configs = hart_0_7b(arguments.size)
    models = random_models(*configs, device=device, dtype=dtype)
    painter = TextToImage(models)
    weights = sum(p.nbytes for model in (models.transformer, models.tokenizer) for p in model.parameters())
    expected = drawing_bytes(
        *configs, painter.transformer.schedule, pictures=arguments.pictures, guided=arguments.guidance > 0, dtype=dtype
    )
    figures: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "device_memory_gib": round((device_bytes(device) or 0) / GIB, 1),
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
        "size": arguments.size,
        "pictures": arguments.pictures,
        "guidance": arguments.guidance,
        "parameters": asdict(count_parameters(models)),
        "weights_gib": round(weights / GIB, 2),
        "built_s": round(now(device) - began, 2),
        "expected_beside_weights_gib": round(expected / GIB, 2),
    }
    for run in range(arguments.runs):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = last = now(device)
        scales, decoding = [], []
        for event in painter.stream_encoded(
            random_prompts(configs[0], arguments.pictures), 0, DrawOptions(guidance=arguments.guidance)
        ):
            if not isinstance(event, ImagePreview | ImageDone):
                continue
            seconds, last = round(now(device) - last, 2), now(device)
            if isinstance(event, ImageDone):
                decoding.append(seconds)
                assert event.picture.image.size == (arguments.size,) * 2
            elif event.index == 0:
                scales.append(seconds)
        figures |= {
            "seconds": round(now(device) - began, 2),
            "seconds_of_scales": scales,
            "seconds_of_decoding": decoding,
            "host_peak_gib": round(host_peak(), 2),
        }
        if device.type == "cuda":
            figures["device_peak_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        print(f"run {run}: {figures['seconds']} s", file=sys.stderr)
    return figures


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=sorted(SCHEDULES), default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="the last is reported, those before warm up")
    parser.add_argument("--json", type=Path, help="file to write; by default one in docs/figures named by the settings")
    arguments = parser.parse_args()
    name = f"hart-{arguments.size}-{arguments.device.split(':')[0]}-{arguments.dtype}.json"
    path = arguments.json or FIGURES / name
    text = json.dumps(measure(arguments), indent=2) + "\n"
    print(text, end="")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
