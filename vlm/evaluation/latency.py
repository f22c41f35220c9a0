"""How long a user waits, after loading: first text, one picture, a guide of six steps."""

from __future__ import annotations

import statistics
import time

from vlm.evaluation.guides import held_out_case
from vlm.events import ImageDone, ImageStarted, TextDelta
from vlm.generate import generate
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions


def latency_figures(model: HartVLM, processor: StreamProcessor, *, guides: int, seed: int) -> dict[str, float]:
    """latency.first_text_s, latency.image_s (with all its previews), latency.guide6_s; medians over some guides.

    No guide of this world has six steps: its time is that of a guide per step, times six.
    """
    first, pictures, whole = [], [], []
    for number in range(guides):
        _, prompt = held_out_case(seed, number)
        begun = mark = time.perf_counter()
        drawn, waiting = 0, True
        stream = processor.encode([{"role": "user", "content": prompt.text}], add_generation_prompt=True)
        for event in generate(model, processor, stream, GenerationOptions(seed=seed)):
            now = time.perf_counter()
            if waiting and isinstance(event, TextDelta):
                first.append(now - begun)
                waiting = False
            elif isinstance(event, ImageStarted):
                mark = now
            elif isinstance(event, ImageDone):
                pictures.append(now - mark)
                drawn += 1
        if drawn:
            whole.append(6 * (time.perf_counter() - begun) / drawn)
    figures = {"latency.first_text_s": first, "latency.image_s": pictures, "latency.guide6_s": whole}
    return {name: statistics.median(values) for name, values in figures.items() if values}
