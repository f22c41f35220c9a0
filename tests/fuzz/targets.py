"""What is read without a model: pictures, guides, the model's text, prompts, configs, a bundle's files; and saving."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_yaml
from tests.fuzz.run import Mutate, Target
from tests.guides import COLOURS, STOOL, pictures, stool
from tests.picture_files import animation, huge_png, samples
from vlm.bundle import MODEL_TYPE, check_bundle
from vlm.errors import GuideError, UserError
from vlm.export import save_guide, to_html, to_markdown, to_pdf
from vlm.guide import GUIDE_FILE, Guide, parse_guide
from vlm.pictures import open_picture
from vlm.png import open_png, read_origin
from vlm.prompt import check_prompt
from vlm.settings import load_settings, packaged_config
from vlm.training.model import ModelSettings
from vlm.training.tokenizer import TokenizerSettings

PIXELS = 4_000_000


def _pictures(folder: Path) -> list[bytes]:
    return [*samples().values(), animation("GIF"), animation("WEBP"), animation("PNG"), huge_png()]


def _read_picture(folder: Path) -> None:
    picture = open_picture(folder / "picture", max_pixels=PIXELS)
    assert picture.mode == "RGB" and 0 < picture.width * picture.height <= PIXELS
    picture.tobytes()


def _guide(folder: Path) -> list[bytes]:
    save_guide(stool(), pictures(), folder / "guide", ("json",))
    (folder / "outside.png").write_bytes((folder / "guide" / "steps" / "01.png").read_bytes())
    rich = stool(parts=(), tools=(), title="مقعد 🪑 椅子", closing="")
    return [(folder / "guide" / GUIDE_FILE).read_bytes(), rich.to_json().encode()]


def _read_guide(folder: Path) -> None:
    guide = Guide.load(folder / "guide")
    assert Guide.model_validate_json(guide.to_json()) == guide
    shown = [(folder / "guide" / step.image).read_bytes() for step in guide.steps]
    to_html(guide, shown).encode("utf-8")
    to_markdown(guide).encode("utf-8")
    # A page takes long; one guide in about ten is enough.
    if len(guide.to_json()) % 10 == 0:
        assert to_pdf(guide, shown).startswith(b"%PDF")


def _step_picture(folder: Path) -> list[bytes]:
    save_guide(stool(), pictures(), folder / "guide", ("json",))
    return [(folder / "guide" / "steps" / "02.png").read_bytes()]


def _read_step_picture(folder: Path) -> None:
    path = folder / "guide" / "steps" / "02.png"
    open_png(path).tobytes()
    assert isinstance(read_origin(path).seed, int)


def _read_text(folder: Path) -> None:
    text = (folder / "answer.txt").read_bytes().decode("utf-8", errors="replace")
    draft = parse_guide(text, COLOURS)
    guide = draft.complete(prompt="p", seed=0, model="m")
    assert len(guide.steps) == len(draft.steps) > 0


def _read_prompt(folder: Path) -> None:
    prompt = check_prompt((folder / "prompt").read_bytes().decode("utf-8", errors="surrogateescape"))
    assert prompt == prompt.strip() != ""
    prompt.encode("utf-8")


def _config(kind: type[Any]) -> list[bytes]:
    name = "model" if kind is ModelSettings else "tokenizer"
    every = {
        "train": {"steps": 3, "minutes": 0, "betas": [0.9, 0.95], "precision": "no", "device": "cpu", "seed": 1}
    }
    return [packaged_config(name).read_bytes(), json.dumps(every).encode(), b"workers: 0\ntrain: {steps: 1}\n"]


def _bundle(folder: Path) -> list[bytes]:
    place = folder / "bundle"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": MODEL_TYPE, "architectures": ["HartVLM"]}))
    save_file({"a": torch.ones(30), "b": torch.zeros(2, 3)}, place / "model-1.safetensors")
    save_file({"c": torch.ones(3)}, place / "model-2.safetensors")
    index = {"metadata": {"total_size": 156}, "weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return []


def _bundle_file(name: str, mutate: Mutate) -> Target:
    def make(folder: Path) -> list[bytes]:
        _bundle(folder)
        return [(folder / "bundle" / name).read_bytes()]

    return Target(
        f"bundle header {name}", f"bundle/{name}", make, mutate, lambda folder: check_bundle(folder / "bundle")
    )


def _limit(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """How large a file may grow, the formats, and whether an earlier guide is there."""
    choice = rng.choice((["html"], ["md", "json"], ["zip"], ["pdf"], ["html", "md", "json"], None))
    return json.dumps([rng.randrange(60_000), choice, rng.random() < 0.5, rng.random() < 0.3]).encode()


def _save(folder: Path) -> None:
    limit, formats, old, one_file = json.loads((folder / "disk.json").read_bytes())
    target = folder / "saved" / ("guide.zip" if one_file else "guide")
    formats = None if one_file else formats
    (folder / "saved").mkdir()
    try:
        if old:
            save_guide(stool(), pictures(), target, formats)
        before = _tree(folder / "saved")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        noise = [Image.effect_noise((40, 40), 80).convert("RGB") for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            save_guide(stool(title="New"), noise, target, formats, force=True)
        except UserError:
            assert _tree(folder / "saved") == before, "a save that failed changed what was there"
            raise
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if one_file:
            with zipfile.ZipFile(io.BytesIO(target.read_bytes())) as archive:
                assert archive.testzip() is None and GUIDE_FILE in archive.namelist()
        else:
            assert Guide.load(target).title == "New"
    finally:
        for path in sorted(folder.glob("saved/**/*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        os.rmdir(folder / "saved")


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TARGETS = (
    Target("picture", "picture", _pictures, mutate_bytes, _read_picture),
    Target("guide", f"guide/{GUIDE_FILE}", _guide, mutate_json, _read_guide),
    Target("guide picture", "guide/steps/02.png", _step_picture, mutate_bytes, _read_step_picture),
    Target("model text", "answer.txt", lambda folder: [STOOL.encode()], mutate_bytes, _read_text, (GuideError,)),
    Target("prompt", "prompt", lambda folder: ["Wie baue ich einen Höcker? 🪑\n".encode()], mutate_bytes, _read_prompt),
    Target(
        "config model", "c.yaml", lambda folder: _config(ModelSettings), mutate_yaml,
        lambda folder: assert_frozen(load_settings(folder / "c.yaml", ModelSettings)),
    ),
    Target(
        "config tokenizer", "c.yaml", lambda folder: _config(TokenizerSettings), mutate_yaml,
        lambda folder: assert_frozen(load_settings(folder / "c.yaml", TokenizerSettings)),
    ),
    _bundle_file("config.json", mutate_json),
    _bundle_file("model.safetensors.index.json", mutate_json),
    _bundle_file("model-1.safetensors", mutate_bytes),
    Target("save on a full disk", "disk.json", lambda folder: [b"[]"], _limit, _save),
)  # fmt: skip


def assert_frozen(settings: ModelSettings | TokenizerSettings) -> None:
    """Settings that were read are whole: their numbers have passed the checks of their classes."""
    assert settings.train.steps > 0 or settings.train.minutes > 0
    assert settings.train.batch_size >= 1
