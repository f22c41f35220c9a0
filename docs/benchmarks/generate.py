"""Time to the first text, to a picture and to a whole guide: python docs/benchmarks/generate.py"""

from __future__ import annotations

import statistics
import time

import torch

from vlm.bundle import load_bundle
from vlm.events import ImageDone, ImageStarted, TextDelta
from vlm.generate import generate
from vlm.sampling import GenerationOptions

started = time.perf_counter()
model, processor = load_bundle()
print(f"loading {time.perf_counter() - started:.2f} s, {torch.get_num_threads()} threads")
first, pictures, guides = [], [], []
for seed in range(6):
    prompt = processor.encode(
        [{"role": "user", "content": "How do I assemble a blue stool with three legs?"}], add_generation_prompt=True
    )
    began = opened = time.perf_counter()
    spoken = False
    for event in generate(model, processor, prompt, GenerationOptions(seed=seed, previews=False)):
        now = time.perf_counter()
        match event:
            case TextDelta() if not spoken:
                first.append(now - began)
                spoken = True
            case ImageStarted():
                opened = now
            case ImageDone():
                pictures.append(now - opened)
    guides.append(time.perf_counter() - began)
# The first run warms up.
for name, values in (("first text", first[1:]), ("picture", pictures[3:]), ("guide", guides[1:])):
    print(f"{name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s")
