"""HART-0.7B at its real size with random weights: time, memory, parameters.

    python docs/benchmarks/hart_release.py --size 256
    python docs/benchmarks/hart_release.py --size 1024 --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch

from hart.memory import GIB, device_bytes, drawing_bytes
from hart.picture import ImageDone, ImagePreview
from hart.presets import SCHEDULES, count_parameters, hart_0_7b, random_models, random_prompts
from hart.text_to_image import DrawOptions, TextToImage

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, choices=sorted(SCHEDULES), default=256)
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
parser.add_argument("--guidance", type=float, default=4.5)
parser.add_argument("--pictures", type=int, default=1)
parser.add_argument("--runs", type=int, default=1, help="the last is reported, those before warm up")
arguments = parser.parse_args()
device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)


def host_peak() -> float:
    """Largest resident memory so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def now() -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


print(f"torch {torch.__version__}, {arguments.device}, {arguments.dtype}, {torch.get_num_threads()} threads")
print(f"device memory {(device_bytes(device) or 0) / GIB:.1f} GiB")
began = now()
configs = hart_0_7b(arguments.size)
models = random_models(*configs, device=device, dtype=dtype)
counts = count_parameters(models)
weights = sum(p.nbytes for m in (models.transformer, models.tokenizer) for p in m.parameters())
print(f"built in {now() - began:.1f} s, host peak {host_peak():.2f} GiB, weights {weights / GIB:.2f} GiB")
print(
    f"parameters: transformer {counts.transformer / 1e6:.1f}M, residual head {counts.residual_head / 1e6:.1f}M, "
    f"tokenizer {counts.tokenizer / 1e6:.1f}M"
)
painter = TextToImage(models)
expected = drawing_bytes(
    *configs, painter.transformer.schedule, pictures=arguments.pictures, guided=arguments.guidance > 0, dtype=dtype
)
print(f"expected beside the weights: {expected / GIB:.2f} GiB")
for run in range(arguments.runs):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    last = began = now()
    for event in painter.stream_encoded(
        random_prompts(configs[0], arguments.pictures), 0, DrawOptions(guidance=arguments.guidance)
    ):
        match event:
            case ImagePreview(index=0, scale=scale):
                print(f"  run {run}: scale {scale}, {now() - last:.2f} s")
                last = now()
            case ImageDone(index=index, picture=picture):
                print(f"  run {run}: picture {index} decoded, {now() - last:.2f} s, {picture.image.size}")
                last = now()
    print(f"run {run}: {now() - began:.2f} s for {arguments.pictures} picture(s) of {arguments.size} px")
    print(f"host peak {host_peak():.2f} GiB")
    if device.type == "cuda":
        print(f"device peak {torch.cuda.max_memory_allocated() / GIB:.2f} GiB")
