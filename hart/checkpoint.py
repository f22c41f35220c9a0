"""Weights from disk: the public release's folders, and this package's own layout.

Knows files, which of several to prefer, and how to fill a model without a second copy of it. Does not know what
weights mean: names and settings are translated by ``hart.release``. Pickles are read as weights only.

Own layout, one folder: ``config.json`` with both configs, ``transformer.safetensors``,
``tokenizer.safetensors``. The release's: ``llm/`` and beside it ``tokenizer/``, each with a config and weights.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hart.config import TokenizerConfig, TransformerConfig
from hart.precision import weight_dtype
from hart.release import (
    TOKENIZER_TYPES,
    TRANSFORMER_TYPE,
    tokenizer_config,
    tokenizer_key,
    tokenizer_state,
    transformer_config,
    transformer_key,
    transformer_state,
)
from hart.tokenizer import HybridTokenizer
from hart.transformer import HartTransformer

logger = logging.getLogger(__name__)

FORMAT = "hart-vlm text-to-image"
CONFIG = "config.json"
# Averaged weights first; of one kind, safetensors first.
STEMS = ("ema_model", "model", "pytorch_model")
ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
# How much of a file may be in memory beside its converted copy, in bytes.
PORTION = 1 << 26

Model = TypeVar("Model", bound=nn.Module)
T = TypeVar("T")


class CheckpointError(ValueError):
    """A folder that does not hold what was expected of it; one line that says what to do."""


@dataclass(frozen=True)
class Names:
    """How a file names its weights. ours: its tensors under our names. theirs: one name of ours → the file's."""

    ours: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    theirs: Callable[[str], str] = str


OWN = Names()


@dataclass(frozen=True)
class HartModels:
    """A transformer and the tokenizer whose codes it predicts. sources: the files that were read."""

    transformer: HartTransformer
    tokenizer: HybridTokenizer
    sources: tuple[Path, ...] = ()


def load_models(
    folder: Path | str,
    *,
    tokenizer: Path | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> HartModels:
    """Both models of a HART folder, for inference.

    folder: the release's ``llm`` (or the folder above it), or one that :func:`save_models` wrote. tokenizer:
    the release's ``tokenizer``, by default the one beside ``llm``. dtype: of the computation, by default as
    stored; some weights keep float32, see :mod:`hart.precision`. Raises CheckpointError.
    """
    folder, config = _model_folder(Path(folder))
    if config.get("format") == FORMAT:
        settings = _checked(lambda: TransformerConfig.from_dict(config["transformer"]), folder)
        tokenizer_settings = _checked(lambda: TokenizerConfig.from_dict(config["tokenizer"]), folder)
        sources = (folder / "transformer.safetensors", folder / "tokenizer.safetensors")
        names = tokenizer_names = OWN
    else:
        beside = Path(os.path.abspath(folder)).parent / "tokenizer"
        tokenizer_settings, tokenizer_source, tokenizer_names = _release_tokenizer(Path(tokenizer or beside))
        settings = _checked(lambda: transformer_config(config, tokenizer_settings), folder)
        sources = (find_weights(folder), tokenizer_source)
        names = Names(transformer_state, transformer_key)
    return HartModels(
        fill(lambda: HartTransformer(settings), sources[0], names, device=device, dtype=dtype),
        fill(lambda: HybridTokenizer(tokenizer_settings), sources[1], tokenizer_names, device=device, dtype=dtype),
        sources,
    )


def load_tokenizer(
    folder: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> HybridTokenizer:
    """The tokenizer of the release's ``tokenizer`` folder alone. Raises CheckpointError."""
    config, source, names = _release_tokenizer(Path(folder))
    return fill(lambda: HybridTokenizer(config), source, names, device=device, dtype=dtype)


def save_models(models: HartModels, folder: Path | str) -> None:
    """Write both models in this package's own layout into an existing folder."""
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "transformer": models.transformer.config.to_dict(),
        "tokenizer": models.tokenizer.config.to_dict(),
    }
    for name in ("transformer", "tokenizer"):
        state = getattr(models, name).state_dict()
        save_file(
            {key: value.contiguous() for key, value in state.items()},
            folder / f"{name}.safetensors",
            metadata={"format": "pt"},
        )
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def find_weights(folder: Path) -> Path:
    """The preferred weights of a folder: averaged ones (``ema_model.*``) before others, whole or in shards.

    The choice is logged. Raises CheckpointError when there are none.
    """
    found = [folder / f"{stem}{ending}" for stem in STEMS for ending in ENDINGS]
    chosen = next((path for path in found if path.is_file()), None)
    if chosen is None:
        raise CheckpointError(
            f"{folder} holds no weights, expected ema_model.bin, model.safetensors or pytorch_model.bin; "
            "download the folder again"
        )
    logger.info("weights of %s: %s%s", folder.name, chosen.name, ", averaged" if "ema" in chosen.name else "")
    return chosen


def read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors of a file or of all shards of an index, on the CPU. Raises CheckpointError."""
    return _read_shards(source) if source.name.endswith(".index.json") else read_file(source)


def read_file(path: Path) -> dict[str, Tensor]:
    """One file of weights, mapped rather than read where its format allows, so that it costs no memory yet.

    Raises CheckpointError when it is missing, damaged or more than plain weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download the folder again")
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise CheckpointError(f"{path} is a pointer of git-lfs and not the weights; run: git lfs pull")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise CheckpointError(
                f"{path} holds objects other than weights, which are never loaded; get it from its source"
            ) from error
        raise CheckpointError(f"{path} is damaged or not fully downloaded; download it again") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or not fully downloaded; download it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is no state dict, expected names and tensors")
    return dict(state)


def fill(
    build: Callable[[], Model],
    source: Path,
    names: Names = OWN,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Model:
    """A module made by ``build()`` with the weights of ``source``, which has ``names`` for them.

    The module is built without memory and takes the tensors as they are. Those that must change device or dtype
    are converted one by one, and after every ``PORTION`` the file is let go and mapped anew: never are two
    copies in memory. Ready for inference. Raises CheckpointError naming, as the file does, every missing and
    unexpected key, and every key of another shape.
    """

    def read() -> dict[str, Tensor]:
        return _checked(lambda: names.ours(read_weights(source)), source)

    with torch.device("meta"):
        module = _checked(build, source)
    expected = module.state_dict()
    state = read()
    _check_keys(expected, state, source, names)
    converted: dict[str, Tensor] = {}
    taken = 0
    for key in expected:
        converted[key] = state[key].to(device=device, dtype=weight_dtype(key, dtype))
        if converted[key] is not state[key]:
            taken += state[key].nbytes
        if taken > PORTION:
            taken = 0
            del state
            state = read()
    module.load_state_dict(converted, assign=True)
    return module.eval().requires_grad_(False)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder. Raises CheckpointError."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; expected one with {CONFIG} and weights")
    if not path.is_file():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{folder} has no {CONFIG} (it holds {inside}); expected a folder of the release")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or not fully downloaded ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, expected names and values")
    return config


def _model_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the transformer and its config; refuses folders of other models by name."""
    if not (folder / CONFIG).is_file() and (folder / "llm" / CONFIG).is_file():
        folder = folder / "llm"
    config = read_config(folder)
    kind = config.get("model_type")
    if config.get("format") == FORMAT or kind in (TRANSFORMER_TYPE, None):
        return folder, config
    if kind in TOKENIZER_TYPES:
        raise CheckpointError(f"{folder} is HART's tokenizer, expected the folder llm that lies beside it")
    raise CheckpointError(f"{folder} is a model of type {kind}, expected HART's llm folder ({TRANSFORMER_TYPE})")


def _release_tokenizer(folder: Path) -> tuple[TokenizerConfig, Path, Names]:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; HART's tokenizer is expected beside its llm folder")
    values = read_config(folder)
    kind = values.get("model_type")
    if kind not in (*TOKENIZER_TYPES, None):
        raise CheckpointError(f"{folder} is a model of type {kind}, expected HART's tokenizer ({TOKENIZER_TYPES[0]})")
    settings = _checked(lambda: tokenizer_config(values), folder)
    names = Names(tokenizer_state, lambda name: tokenizer_key(name, values.get("share_quant_resi", 4)))
    return settings, find_weights(folder), names


def _check_keys(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Path, names: Names
) -> None:
    problems = {
        "missing": sorted(map(names.theirs, set(expected) - set(state))),
        "unexpected": sorted(map(names.theirs, set(state) - set(expected))),
        "of another shape": sorted(
            f"{names.theirs(key)} {tuple(state[key].shape)} (expected {tuple(value.shape)})"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ),
    }
    wrong = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
    if wrong:
        raise CheckpointError(f"{source} does not fit its config: {wrong}")


def _checked(make: Callable[[], T], source: Path) -> T:
    try:
        return make()
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{source}: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        # Files of before torch 1.6 cannot be mapped.
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged or not fully downloaded; download it again") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{index} names files outside its folder: {', '.join(outside)}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks the shards {', '.join(missing)}; download the folder again")
    state: dict[str, Tensor] = {}
    for name in names:
        state.update(read_file(index.parent / name))
    return state
