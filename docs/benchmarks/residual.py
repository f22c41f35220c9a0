"""What the residual head is worth, by its number of steps: truth, PSNR and time of drawn pictures, with and without it.

    python docs/benchmarks/residual.py --limit 20 --seed 0

The same held-out guides for each number of steps, running free; PSNR against the true picture of the product that each
guide states.
"""

from __future__ import annotations

import argparse
import time

from vlm.bundle import load_bundle
from vlm.evaluation import guide_figures, held_out_case, judge
from vlm.evaluation.image_tokenizer import residual_gain
from vlm.sampling import GenerationOptions
from vlm.session import StreamSession


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default=None)
    arguments = parser.parse_args()
    model, processor = load_bundle(arguments.bundle)
    spent = [0.0]
    sample = StreamSession.residual

    def timed(*inputs):
        begun = time.perf_counter()
        result = sample(*inputs)
        spent[0] += time.perf_counter() - begun
        return result

    StreamSession.residual = timed  # type: ignore[method-assign]
    print("steps  picture.truth  gain_truth  gain_psnr  ms/picture")
    for steps in (2, 4, 8, 50):
        spent[0] = 0.0
        options = GenerationOptions(seed=arguments.seed, previews=False, residual_steps=steps)
        judged = [
            judge(model, processor, *held_out_case(arguments.seed, number), number, options)
            for number in range(arguments.limit)
        ]
        drawn = max(1, sum(len(one.pictures) for one in judged))
        figures, gain = guide_figures(judged), residual_gain(model, judged)
        print(
            f"{steps:5}  {figures['picture.truth']:13.3f}  {gain['residual.gain_truth']:10.3f}"
            f"  {gain['residual.gain_psnr']:9.2f}  {1000 * spent[0] / drawn:10.1f}"
        )


if __name__ == "__main__":
    main()
