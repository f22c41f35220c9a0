"""The bundle: a folder of weights and configs that is a whole model. Finds it, proves it, loads it.

Knows the files, not the architecture: a damaged or foreign folder is refused before any weight is read.
"""

from __future__ import annotations

import hashlib
import json
import struct
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.checksums import CHECKSUMS_FILE, write_checksums
from vlm.errors import UserError
from vlm.files import usual_modes

if TYPE_CHECKING:
    import torch

    from vlm.model import HartVLM
    from vlm.processor import StreamProcessor

MODEL_TYPE = "hart_vlm"
MAX_SHARD_BYTES = 15_000_000
MAX_BUNDLE_BYTES = 40_000_000
MAX_HEADER_BYTES = 100_000_000
_DEPTHS = ("_layers", "_depth", "_blocks")
RECORD_FILE, CARD_FILE = "training.json", "README.md"
SAID_FILES = (RECORD_FILE, CARD_FILE, CHECKSUMS_FILE)
"""What a bundle says about itself; no part of its fingerprint."""


def bundle_path(path: Path | str | None = None) -> Path:
    """`path`, or the bundle that ships with this package. Raises `UserError` if it is no folder."""
    if path is None:
        packaged = Path(str(resources.files("vlm") / "bundle"))
        if not packaged.is_dir():
            raise UserError(f"this installation carries no model ({packaged} is missing); pass --bundle DIR")
        return packaged
    path = Path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "missing"
        raise UserError(f"{path} is {found}, expected the folder of a bundle; pass another --bundle")
    return path


def fingerprint(path: Path | str | None = None) -> str:
    """The first 16 hex digits of a SHA-256 over names, lengths and contents of the files that decide the answers."""
    folder = bundle_path(path)
    digest = hashlib.sha256()
    for file in _files(folder):
        if file.name in SAID_FILES:
            continue
        name = file.relative_to(folder).as_posix().encode()
        digest.update(struct.pack("<QQ", len(name), file.stat().st_size) + name)
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def load_bundle(
    path: Path | str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[HartVLM, StreamProcessor]:
    """The model, in evaluation mode, and its processor, from a bundle's folder (the packaged one by default).

    dtype: float32 by default, whatever the files hold. Raises `UserError` if a file is missing, truncated or
    foreign, if the weights are not exactly those of the model, or if one of them is not a number.
    """
    folder = bundle_path(path)
    check_bundle(folder)

    import torch

    from vlm.model import HartVLM
    from vlm.processor import StreamProcessor

    try:
        model = HartVLM.from_pretrained(folder, dtype=dtype or torch.float32, local_files_only=True)
        processor = StreamProcessor.from_pretrained(folder)
    # What reads configs and vocabularies of strangers raises what it likes, bare `Exception` included.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"the bundle at {folder} cannot be loaded: {reason}; restore its files") from error
    _check_finite(model, folder)
    return model.to(device).eval(), processor  # type: ignore[arg-type]


def save_bundle(
    model: HartVLM, processor: StreamProcessor, folder: Path, record: dict[str, list[dict]] | None = None
) -> None:
    """Write a bundle into the new or existing `folder`: bfloat16 weights in shards, configs, text tokenizer, checksums.

    record: how each part was trained, for the model card. Raises RuntimeError if the weights do not fit the limits of a
    bundle.
    """
    import copy

    import torch

    half = copy.deepcopy(model).bfloat16()
    half.config.dtype = torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    half.save_pretrained(folder, max_shard_size=MAX_SHARD_BYTES - 500_000)
    processor.save_pretrained(folder)
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    if max(sizes) > MAX_SHARD_BYTES or sum(sizes) > MAX_BUNDLE_BYTES:
        raise RuntimeError(f"{folder}: shards of {sizes} bytes exceed {MAX_SHARD_BYTES:,} each or {MAX_BUNDLE_BYTES:,}")
    (folder / RECORD_FILE).write_text(json.dumps(record or {}, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)
    usual_modes(folder)


def check_bundle(folder: Path) -> None:
    """Raise `UserError` unless `folder` holds a config of this kind of model and whole safetensors files."""
    config = _json(folder / "config.json")
    found = config.get("model_type")
    if found != MODEL_TYPE:
        raise UserError(
            f"{folder / 'config.json'} is of model type {found!r}, expected {MODEL_TYPE!r}; "
            "pass another --bundle"
        )
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = _json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{index} has no weight_map of file names; restore the bundle's files")
        names = sorted(set(shards.values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if Path(name).name != name or not name.isprintable():
            raise UserError(f"{index} names {name!r}, expected a file beside it; restore the bundle's files")
    held = [check_safetensors(folder / name) for name in names]
    _check_sizes(config, sum(tensors for tensors, _ in held), sum(size for _, size in held), folder / "config.json")


def _check_sizes(value: object, tensors: int, size: int, path: Path, key: str = "") -> None:
    """Refuse sizes that no model with so many tensors and bytes of weights can have: building one might never end."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_sizes(inner, tensors, size, path, str(name))
    elif isinstance(value, list):
        for inner in value:
            _check_sizes(inner, tensors, size, path, key)
    elif isinstance(value, int) and abs(value) > (tensors if key.endswith(_DEPTHS) else size):
        raise UserError(f"{path} has {key} {value:,}, more than its weights can hold; restore the bundle's files")


def check_safetensors(path: Path) -> tuple[int, int]:
    """The numbers of tensors and of bytes in a safetensors file.

    Raises `UserError` unless it has just the length that its header promises.
    """
    restore = "restore the bundle's files"
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES
            if 8 + length > min(size, MAX_HEADER_BYTES):
                raise UserError(f"{path} is truncated or no safetensors file ({size:,} bytes); {restore}")
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}), expected weights; {restore}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{path} has a damaged header, expected a safetensors file; {restore}") from error
    if size != expected:
        raise UserError(f"{path} has {size:,} bytes, its header promises {expected:,}; {restore}")
    return len(ends), size


def _check_finite(model: HartVLM, folder: Path) -> None:
    """Raise `UserError`, naming the file, if a weight is NaN or infinite: such a model draws nothing but noise."""
    broken = [name for name, value in model.state_dict().items() if not bool(value.isfinite().all())]
    if not broken:
        return
    index = folder / "model.safetensors.index.json"
    shards = _json(index)["weight_map"] if index.exists() else {}
    # Of weights that are tied, the files hold one.
    name = next((name for name in broken if name in shards), broken[0])
    raise UserError(
        f"{folder / shards.get(name, 'model.safetensors')} holds values that are no finite numbers (in {name}); "
        "restore the bundle's files"
    )


def _files(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.is_file())
    named = [
        file
        for file in found
        if not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    ]
    return sorted(named, key=lambda file: file.relative_to(folder).as_posix())


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}), expected a bundle's file; pass another --bundle"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); restore the bundle's files") from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds a {type(value).__name__}, expected an object; restore the bundle's files"
        )
    return value
