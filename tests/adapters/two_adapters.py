"""Started by torchrun: trains a tiny adapter into the folder given, on however many processes.

argv: the folder, the batch size of each process, and the patience.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from adapter_fixtures import BASE, QUICK, model, processor, streams

from adapters.lora import LoraSettings
from adapters.material import Material
from adapters.training import About, AdaptSettings, train_adapter


def main(folder: Path, batch_size: int, patience: int) -> None:
    built = model()
    all_of_them = streams(built, 8)
    # No picture is drawn by chance: what a step learns depends on its examples alone.
    built.config.unconditional_probability = 0.0
    built.config.residual_weight = 0.0
    # A rate that leads nowhere, where the run is to stop early; text alone, whose loss stays a number then.
    lora = LoraSettings(("text",), rank=2) if patience else LoraSettings(rank=2)
    settings = AdaptSettings(
        lora=lora, rehearse=0.0, patience=patience, draft_spans=9,
        train=replace(
            QUICK, steps=30 if patience else 8, batch_size=batch_size, validate_every=2, average=0.0,
            learning_rate=0.3 if patience else 1e-2,
        ),
    )  # fmt: skip
    material = Material(all_of_them[:6], all_of_them[6:])
    train_adapter(built, processor(built), material, settings, folder / "adapter", About(BASE))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
