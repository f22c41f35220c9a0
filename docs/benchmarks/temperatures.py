"""What the temperature of codes does, scale by scale: truth of the pictures, and how far apart two seeds' pictures are.

    python docs/benchmarks/temperatures.py --limit 16 --seed 0

The same held-out guides at two seeds for each setting, running free, words greedy. `apart` is the mean difference of
the two seeds' pictures of the same step, in levels of 255, over guides of the same product.
"""

from __future__ import annotations

import argparse

import numpy as np

from vlm.bundle import load_bundle
from vlm.evaluation import guide_figures, held_out_case, judge
from vlm.sampling import GenerationOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default=None)
    arguments = parser.parse_args()
    model, processor = load_bundle(arguments.bundle)
    scales = len(model.config.scales)
    half = scales // 2
    for name, temperatures in {
        "greedy": (0.0,) * scales,
        "0.2 (default)": (0.2,) * scales,
        "0.5": (0.5,) * scales,
        "1": (1.0,) * scales,
        "1 on the coarser half, 0.2 on the finer": (1.0,) * half + (0.2,) * (scales - half),
        "0.2 on the coarser half, 1 on the finer": (0.2,) * half + (1.0,) * (scales - half),
        "0.2, 1 on the finest": (0.2,) * (scales - 1) + (1.0,),
    }.items():
        runs = []
        for seed in (arguments.seed, arguments.seed + 1):
            options = GenerationOptions(seed=seed, previews=False, temperature=0, code_temperature=temperatures)
            runs.append(
                [
                    judge(model, processor, *held_out_case(arguments.seed, number), number, options)
                    for number in range(arguments.limit)
                ]
            )
        apart = [
            np.abs(np.asarray(first, np.float32) - np.asarray(second, np.float32)).mean()
            for one, other in zip(*runs, strict=True)
            for first, second in zip(one.pictures, other.pictures, strict=False)
            if one.truth == other.truth
        ]
        figures = guide_figures([one for run in runs for one in run])
        pictures = sum(len(one.pictures) for run in runs for one in run)
        truth = figures["picture.truth"]
        print(f"{name:42} picture.truth {truth:.3f} of {pictures}  apart {np.mean(apart):.2f}", flush=True)


if __name__ == "__main__":
    main()
