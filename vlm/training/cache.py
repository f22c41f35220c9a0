"""Encoded conversations on disk, so that a second run over the same data neither draws nor encodes a picture.

A file holds one batch; what the files depend on (tokenizers, seed, sizes) is hashed into the folder's name, so that of
these nothing stale is read; where the world itself changed (wording, shares, the renderer), begin a new cache. Files
are written aside and renamed: two runs may share a cache, and a kill leaves no half of one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hart.tokenizer import HybridTokenizer
from vlm.files import output_file
from vlm.stream import Conversation


class ConversationCache:
    """Batches of conversations by name, in a folder of `root` that is named by the hash of `depends`."""

    def __init__(self, root: Path, depends: Any) -> None:
        self.folder = root / digest(depends)
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> list[Conversation] | None:
        """The batch, or None where it is not there or cannot be read (it is then computed again)."""
        try:
            tensors = load_file(self.folder / f"{name}.safetensors")
            parts = (
                tensors["ids"].long().split(tensors["lengths"].tolist()),
                tensors["residuals"].split(tensors["pictures"].tolist()),
                tensors["assistant"].split(tensors["lengths"].tolist()),
            )
        except (OSError, KeyError, RuntimeError, SafetensorError):
            return None
        return [Conversation(*one) for one in zip(*parts, strict=True)]

    def save(self, name: str, conversations: Sequence[Conversation]) -> None:
        """Write a batch; ids are kept in 32 bits."""
        whole = Conversation.cat(conversations)
        tensors = {
            "ids": whole.ids.int(),
            "residuals": whole.residuals.contiguous(),
            "assistant": whole.assistant,
            "lengths": torch.tensor([len(one.ids) for one in conversations]),
            "pictures": torch.tensor([len(one.residuals) for one in conversations]),
        }
        with output_file(self.folder / f"{name}.safetensors") as aside:
            save_file(tensors, aside)


def digest(value: Any) -> str:
    """The first 16 hex digits of a SHA-256 over plain values as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over a module's state, names and contents, hexadecimal."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def codes_hash(tokenizer: HybridTokenizer) -> str:
    """A digest of what gives a picture its codes and residual: of all but the decoder."""
    return digest([weights_hash(tokenizer.encoder), weights_hash(tokenizer.quantizer)])


def shapes_hash(module: nn.Module) -> str:
    """A digest of the names and shapes of a module's state."""
    return digest({name: list(value.shape) for name, value in module.state_dict().items()})
