"""Tiny bases, data and adapters for the tests; random weights, pictures of a few pixels."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "vlm"))

from stream_fixtures import guide_messages, model, processor  # noqa: E402

from adapters.folder import Manifest, StoredAdapter, World  # noqa: E402
from adapters.lora import LoraSettings, put_in, shared_copy, weights_of  # noqa: E402
from vlm.model import HartVLM  # noqa: E402
from vlm.stream import Conversation  # noqa: E402
from vlm.training.settings import TrainSettings  # noqa: E402

BASE = "0123456789abcdef"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
QUICK = TrainSettings(
    steps=4, batch_size=2, learning_rate=1e-2, warmup=1, precision="no", device="cpu", log_every=1, validate_every=100,
    weight_decay=0.0,
)  # fmt: skip

MANUAL = """---
prompt: How do I build a {colour} stand?
colours: [{colour}]
---
# {title}

Quick to build.

## Parts

* 2 x {colour} leg

## Steps

### 1. Stand the **two** legs up.

![the legs](<{picture}>)

2. Lay the top on them.

![the top]({picture})

Done!
"""


def streams(built: HartVLM, count: int, first: int = 0) -> list[Conversation]:
    """Different illustrated conversations."""
    return [processor(built).encode(guide_messages(built, 2, seed=first + 7 * number)) for number in range(count)]


def stored(built: HartVLM, settings: LoraSettings, seed: int = 0, base: str = BASE, **world) -> StoredAdapter:
    """An adapter of random weights, B included."""
    view = shared_copy(built)
    put_in(view, settings)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(value.shape, generator=generator) * 0.2 for name, value in weights_of(view).items()
    }
    return StoredAdapter(settings, tensors, Manifest(base=base, places=settings.places, world=World(**world)))


def picture_file(path: Path, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (250, 250, 250))
    image.paste(colour, (5, 5, size[0] - 10, size[1] - 8))
    image.save(path)
    return path


def manual(folder: Path, name: str = "stand", colour: str = "red") -> Path:
    """A Markdown manual with its picture beside it."""
    picture_file(folder / f"{name}.png", (hash_colour(colour), 40, 90))
    path = folder / f"{name}.md"
    path.write_text(MANUAL.format(colour=colour, title=f"A {colour} stand", picture=f"{name}.png"), encoding="utf-8")
    return path


def hash_colour(colour: str) -> int:
    return sum(colour.encode()) % 200


def rows_file(path: Path, rows: list) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def same(one: HartVLM, other: dict[str, torch.Tensor]) -> bool:
    """Are the model's weights these, to the bit?"""
    state = one.state_dict()
    return set(state) == set(other) and all(torch.equal(state[name], value) for name, value in other.items())


def kept(built: HartVLM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in built.state_dict().items()}


__all__ = ["BASE", "MANUAL", "QUICK", "kept", "manual", "model", "picture_file", "processor", "rows_file", "same",
           "stored", "streams"]  # fmt: skip


def example_script(name: str) -> ModuleType:
    """A script of docs/examples as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
