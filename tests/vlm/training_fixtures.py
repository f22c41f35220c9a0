"""What the tests of training share: tiny sizes, quick settings, the rows of a curve."""

from __future__ import annotations

import json
from pathlib import Path

from hart.tokenizer import TokenizerConfig
from vlm.training.settings import TrainSettings

TINY = TokenizerConfig(
    channels=8,
    vocab_size=64,
    encoder_widths=(16, 16, 32),
    decoder_widths=(16, 16, 32),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    groups=8,
)
QUICK = TrainSettings(
    steps=6, batch_size=2, learning_rate=1e-3, warmup=2, precision="no", device="cpu", log_every=1, validate_every=100
)


class Killed(Exception):
    """Stands for a process that dies."""


def curve(folder: Path, kind: str = "train", key: str = "loss") -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [(row["step"], row[key]) for row in rows if row["kind"] == kind]


def losses(folder: Path) -> list[dict]:
    """The rows of training without what a clock says."""
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    timed = ("minutes", "samples_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows if row["kind"] == "train"]
