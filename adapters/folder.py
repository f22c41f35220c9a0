"""An adapter as a folder: tensors, settings, what it was made of, a card. Written whole, read with suspicion.

Knows files. Does not know how an adapter is put into a model. A folder holds just four files:
`adapter_model.safetensors` and `adapter_config.json` as peft names them, `adapter.json` (the `Manifest`) and
`README.md`. Nothing in them names a place on the machine that trained it, and nothing that is executed is ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.lora import LoraSettings
from vlm.bundle import check_safetensors
from vlm.errors import UserError
from vlm.files import output_folder
from vlm.guide import describe

WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE, CARD_FILE = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "adapter.json",
    "README.md",
)
FILES = (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE, CARD_FILE)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
MAX_JSON_BYTES = 4 << 20
MAX_WEIGHTS_BYTES = 4 << 30

M = TypeVar("M", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class World(_Frozen):
    """What an adapter brings beside weights.

    colours: words that name a colour in its parts lists; outside: what is said in place of the model's own answer where
    a prompt is outside what it knows, None for the model's own words.
    """

    name: str = Field(default="", max_length=200)
    colours: tuple[str, ...] = Field(default=(), max_length=1000)
    outside: str | None = Field(default=None, max_length=4000)


class Manifest(_Frozen):
    """What an adapter says of itself. base: fingerprint of the bundle it belongs to; held_out: names of the examples
    that training did not see."""

    format: int = Field(default=1, ge=1, le=1)
    base: str = Field(min_length=1, max_length=64)
    places: tuple[str, ...] = Field(min_length=1, max_length=8)
    world: World = World()
    data: dict[str, int] = Field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    command: str = Field(default="", max_length=2000)
    figures: dict[str, float] = Field(default_factory=dict)
    record: list[dict[str, Any]] = Field(default_factory=list)


class _PeftConfig(BaseModel):
    """Those of peft's settings that are ours; its others are left at peft's defaults, and must be."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: str
    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, Any] = Field(default_factory=dict)
    alpha_pattern: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in memory. tensors: by the names of `adapters.lora.weights_of`, on the CPU."""

    settings: LoraSettings
    tensors: dict[str, Tensor]
    manifest: Manifest

    def fingerprint(self) -> str:
        """The first 16 hex digits of a SHA-256 over settings and tensors: over all that decides the answers."""
        settings = self.settings
        digest = hashlib.sha256(f"{settings.alpha!r} {settings.rank} {settings.rslora}".encode())
        for name, value in sorted(self.tensors.items()):
            digest.update(name.encode() + value.float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check_base(self, fingerprint: str) -> None:
        """Raises `UserError`, both fingerprints named, unless this is the base that the adapter was trained on."""
        if self.manifest.base != fingerprint:
            raise UserError(
                f"this adapter was trained on the model {self.manifest.base}, the model loaded is {fingerprint}; "
                "load that model with --bundle, or train the adapter again on this one"
            )


def save_adapter(adapter: StoredAdapter, folder: Path, targets: list[str], force: bool = False) -> None:
    """Write an adapter as a folder, whole or not at all. targets: full names of the layers, for peft's own readers.

    Raises `UserError` if something is in the way (with `force`, only if it is no adapter) or cannot be written.
    """
    settings = adapter.settings
    config = {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "bias": "none",
        "target_modules": targets,
        "base_model_name_or_path": None,
        "inference_mode": True,
    }
    with output_folder(folder, marker=MANIFEST_FILE, force=force) as staging:
        save_file(adapter.tensors, staging / WEIGHTS_FILE, metadata={"format": "pt"})
        _write_json(staging / CONFIG_FILE, config)
        _write_json(staging / MANIFEST_FILE, adapter.manifest.model_dump(mode="json"))
        (staging / CARD_FILE).write_text(card(adapter), encoding="utf-8")


def load_adapter(folder: Path | str) -> StoredAdapter:
    """Read a folder that `save_adapter` wrote.

    Raises `UserError` for a missing, damaged or foreign file, for a pickle anywhere in the folder, for a link that
    leads out of it, and for settings that are not ours; nothing is executed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is {'a file' if folder.exists() else 'missing'}, expected the folder of an adapter")
    _check_files(folder)
    config = _read(folder / CONFIG_FILE, _PeftConfig)
    manifest = _read(folder / MANIFEST_FILE, Manifest)
    plain = config.peft_type == "LORA" and config.bias == "none" and not config.use_dora
    if not plain or config.rank_pattern or config.alpha_pattern:
        raise UserError(f"{folder / CONFIG_FILE} is no plain LoRA of one rank; train it with `vlm adapt train`")
    settings = LoraSettings(manifest.places, config.r, config.lora_alpha, config.lora_dropout, config.use_rslora)
    weights = folder / WEIGHTS_FILE
    check_safetensors(weights)
    if weights.stat().st_size > MAX_WEIGHTS_BYTES:
        raise UserError(f"{weights} has more than {MAX_WEIGHTS_BYTES:,} bytes, expected an adapter")
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{weights} cannot be read ({' '.join(str(error).split())}); get the adapter again") from error
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise UserError(f"{weights} holds values that are no finite numbers (in {name}); get the adapter again")
    return StoredAdapter(settings, tensors, manifest)


def card(adapter: StoredAdapter) -> str:
    """The adapter's README: what it is for, what it was made of, how, how well, in Markdown."""
    manifest, settings = adapter.manifest, adapter.settings
    size = sum(value.numel() * value.element_size() for value in adapter.tensors.values())
    scale = "alpha / √rank" if settings.rslora else "alpha / rank"
    lines = [
        f"# {manifest.world.name or 'An adapter'}",
        "",
        f"A LoRA adapter for the model with the fingerprint `{manifest.base}`; for no other.",
        "",
        f"- changes: {', '.join(settings.places)}; rank {settings.rank}, alpha {settings.alpha:g} ({scale}), "
        f"dropout {settings.dropout:g}",
        f"- size: {size / 1e6:.1f} MB in {len(adapter.tensors)} tensors",
        f"- data: {', '.join(f'{count} {name}' for name, count in manifest.data.items()) or 'not told'}",
    ]
    if manifest.world.colours:
        lines.append(f"- colours it names: {', '.join(manifest.world.colours)}")
    if manifest.command:
        lines += ["", "Trained with", "", f"    {manifest.command}"]
    for run in manifest.record:
        told = (f"{name} {run[name]}" for name in ("steps", "minutes", "hardware", "date") if name in run)
        lines += ["", ", ".join(told)]
    if manifest.figures:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in sorted(manifest.figures.items())]
    return "\n".join(lines) + "\n"


def settings_record(settings: LoraSettings) -> dict[str, Any]:
    """LoRA settings as plain values, for a manifest."""
    return asdict(settings) | {"places": list(settings.places)}


def _check_files(folder: Path) -> None:
    for wanted in (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE):
        if not (folder / wanted).is_file():
            raise UserError(f"{folder} holds no {wanted}, expected the folder of an adapter")
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        try:
            inside = path.resolve().is_relative_to(root)
        except (OSError, RuntimeError):
            inside = False
        if not inside:
            raise UserError(f"{folder} holds {name}, a link that leads out of it or nowhere; an adapter is plain files")
        if path.suffix.lower() in PICKLES:
            raise UserError(f"{folder} holds {name}, which can run code when it is read; expected safetensors only")


def _read(path: Path, kind: type[M]) -> M:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} has more than {MAX_JSON_BYTES:,} bytes, expected an adapter's settings")
        return TypeAdapter(kind).validate_python(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}; get the adapter again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}), expected an adapter's settings") from error


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
