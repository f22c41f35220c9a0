"""What fits where: the memory a drawing takes, the memory a device has, the device to prefer.

Knows sizes, in bytes. An estimate on the generous side, for messages and for refusing what cannot work; it does
not steer anything else.
"""

from __future__ import annotations

import os

import torch

from hart.config import TokenizerConfig, TransformerConfig
from hart.precision import weight_dtype
from hart.schedule import ScaleSchedule

GIB = 1 << 30
# Tensors of the size of the widest activation that live at once: input, normed, convolved, shortcut, workspace.
DECODER_COPIES = 5


class DoesNotFit(RuntimeError):
    """The memory does not suffice; the message says what would fit."""


def best_device() -> str:
    """ "cuda", "mps" or "cpu", the first that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def drawing_bytes(
    config: TransformerConfig,
    tokenizer: TokenizerConfig,
    schedule: ScaleSchedule,
    *,
    pictures: int,
    guided: bool,
    dtype: torch.dtype,
) -> int:
    """Memory beside the weights while ``pictures`` are drawn at once (their decoder runs one by one)."""
    branches = pictures * (2 if guided else 1)
    rows = config.context_tokens + schedule.total - 1
    caches = 2 * config.depth * branches * rows * config.width * dtype.itemsize
    last = max(schedule.areas[-1], config.context_tokens)
    layer = branches * last * (3 * config.mlp_width + 6 * config.width) * dtype.itemsize
    codes = branches * schedule.areas[-1] * config.vocab_size * 4 * 3
    side = schedule.last * tokenizer.stride
    pixel = (weight_dtype("decoder.", dtype) or dtype).itemsize
    decoder = DECODER_COPIES * max(tokenizer.decoder_widths[:2]) * side * side * pixel
    return caches + max(layer, codes, decoder)


def device_bytes(device: torch.device) -> int | None:
    """All memory of a device; None where it cannot be known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        # An Apple processor and its graphics share one memory.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "allocate memory" in text)
