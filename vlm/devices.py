"""Names of devices and precisions as users write them, checked before anything is loaded."""

from __future__ import annotations

import torch

from vlm.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | torch.device) -> torch.device:
    """cpu, cuda, cuda:1, mps, … → the device. Raises `UserError` if torch does not have it here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"the device {name!r} is unknown, expected cpu, cuda or mps") from error
    advice = "use --device cpu, or see `vlm doctor`"
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}, but sees no GPU"
        raise UserError(f"cannot use the device {name!r}: this torch is built {built}; {advice}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"cannot use the device {name!r}: this torch sees no Apple GPU; {advice}")
    try:
        # A meta tensor has no values, so reading one back proves the device real as well as present.
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"cannot use the device {name!r}: {reason}; {advice}") from error
    return device


def pick_dtype(name: str | torch.dtype | None) -> torch.dtype:
    """float32 (the default), bfloat16 or float16 → the type of the weights. Raises `UserError` on another."""
    if name is None:
        return torch.float32
    dtype = DTYPES.get(name) if isinstance(name, str) else name
    if dtype not in DTYPES.values():
        raise UserError(f"the precision {name} is not supported, expected one of {', '.join(DTYPES)}")
    assert dtype is not None
    return dtype
