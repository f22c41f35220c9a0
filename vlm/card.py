"""The model card of a bundle: what it was trained on, how, on what, how true it is, what it cannot do.

Knows the template and what the bundle says of itself; measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from vlm.bundle import CARD_FILE, RECORD_FILE
from vlm.checksums import write_checksums
from vlm.errors import UserError
from vlm.model import HartVLM

COMMANDS = {"tokenizer": "vlm train tokenizer", "model": "vlm train model"}


def training_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs by which the bundle in `folder` was trained. Raises `UserError` if it has no readable record of them."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return [{"part": part, "command": COMMANDS[part], **run} for part, told in record.items() for run in told]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / RECORD_FILE} tells of no training ({error}); write the bundle again") from error


def write_card(model: HartVLM, folder: Path, figures: Mapping[str, float], *, limit: int, seed: int) -> Path:
    """Write the card of the bundle in `folder`, whose model this is, and its checksums anew; return the card's path.

    figures: of `vlm.evaluation.evaluate` with this limit and seed. Raises `UserError` as `training_runs` does.
    """
    runs = training_runs(folder)
    config = model.config
    environment = Environment(loader=PackageLoader("vlm"), trim_blocks=True, lstrip_blocks=True, autoescape=False)
    text = environment.get_template("model_card.md").render(
        towers={"layers": config.text_tower.num_hidden_layers, "width": config.text_tower.hidden_size},
        resolution=config.tokenizer_config.resolution,
        codes=config.codes_per_picture,
        scales=config.scales,
        code_vocabulary=config.code_vocab_size,
        parameters=sum(weight.numel() for weight in model.parameters()),
        tokenizer_parameters=sum(weight.numel() for weight in model.image_tokenizer.parameters()),
        runs=runs,
        figures=sorted(figures.items()),
        limit=limit,
        seed=seed,
    )
    path = folder / CARD_FILE
    path.write_text(text, encoding="utf-8")
    write_checksums(folder)
    return path
