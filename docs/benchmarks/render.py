"""Pictures per second on one core: python docs/benchmarks/render.py"""

from __future__ import annotations

import random
import time

from vlm.flatpack.build import stages
from vlm.flatpack.product import sample_product
from vlm.flatpack.render import render

for size in (128, 256):
    rng = random.Random(0)
    count, started = 0, time.process_time()
    while time.process_time() - started < 10:
        product = sample_product(rng, "any")
        for step in range(len(stages(product))):
            render(product, step, size)
            count += 1
    print(f"{size} px: {count / (time.process_time() - started):.0f} pictures/s of processor time")
