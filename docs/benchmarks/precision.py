"""One seed, one drawing, several devices and precisions: how near do the pictures come?

    python docs/benchmarks/precision.py [--pictures 8] [cpu:float32 cpu:bfloat16 cuda:float32 ...]

The first pair is the reference. The words are those of the reference, so that only the drawing is compared. Printed for
each other pair: share of codes that agree, by scale, and the median PSNR between the two pictures in dB.
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image

from vlm.agent import load_agent
from vlm.generate import decode_picture
from vlm.pictures import psnr, to_tensor
from vlm.sampling import GenerationOptions
from vlm.session import StreamSession

PROMPT = "Draw a {} bench with two slats."
COLOURS = ("red", "green", "blue", "yellow", "teal", "purple", "brown", "black")


def draw(agent, colour: str, seed: int) -> tuple[list[torch.Tensor], Image.Image]:
    """Codes by scale and picture of one span right after the prompt."""
    prompt = agent.processor.encode(
        [{"role": "user", "content": PROMPT.format(colour)}], add_generation_prompt=True
    )
    session = StreamSession(agent.model)
    session.feed(prompt)
    for _ in session.draw_scales(GenerationOptions(previews=False), torch.Generator().manual_seed(seed)):
        pass
    return [codes[0] for codes in session.last_tokens.codes], decode_picture(agent.model, session.last_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", default=["cpu:float32", "cpu:bfloat16"])
    parser.add_argument("--pictures", type=int, default=8)
    options = parser.parse_args()
    drawn = {}
    for pair in options.pairs:
        device, _, dtype = pair.partition(":")
        agent = load_agent(device=device, dtype=dtype or None)
        drawn[pair] = [draw(agent, COLOURS[n % len(COLOURS)], n) for n in range(options.pictures)]
    reference = drawn.pop(options.pairs[0])
    print(f"{'pair':16} {'codes that agree, by scale':42} median dB")
    for pair, pictures in drawn.items():
        shares = [
            torch.cat([a[0][k] == b[0][k] for a, b in zip(reference, pictures, strict=True)]).float().mean().item()
            for k in range(len(reference[0][0]))
        ]
        decibels = psnr(to_tensor([b[1] for b in pictures]), to_tensor([a[1] for a in reference]))
        print(f"{pair:16} {' '.join(f'{share:.2f}' for share in shares):42} {decibels.median():.1f}")


if __name__ == "__main__":
    main()
