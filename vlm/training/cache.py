"""Encoded conversations on disk, so that a second run over the same data neither draws nor encodes a picture.

A file holds one batch; what the files depend on (tokenizers, seed, sizes) is hashed into the folder's name, so nothing
stale is ever read. Files are written aside and renamed: two runs may share a cache, and a kill leaves no half of one.
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

from vlm.files import output_file
from vlm.stream import Conversation


class ConversationCache:
    """Batches of conversations by name, in a folder of `root` that is named by the hash of `depends`."""

    def __init__(self, root: Path, depends: Any) -> None:
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = root / digest
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


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over a module's state, names and contents, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
