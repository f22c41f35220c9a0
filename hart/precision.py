"""Which weights keep float32 when the rest is computed in less. Knows names of weights; knows no models."""

from __future__ import annotations

import torch

# Codes must not depend on the precision around them.
ALWAYS = ("quantizer.",)
# bfloat16 has 8 significant bits, no more than a picture has per channel; guidance multiplies the head's errors.
# On the recorded folder, pictures were off by 0.15 with all in bfloat16 and are by 0.03 with these in float32.
BESIDE_BFLOAT16 = ("encoder.", "decoder.", "residual_head.")


def weight_dtype(name: str, dtype: torch.dtype | None) -> torch.dtype | None:
    """The dtype of a weight, by its name in a transformer or tokenizer, when ``dtype`` is asked for.

    None is for "as stored".
    """
    if name.startswith(ALWAYS) or (dtype == torch.bfloat16 and name.startswith(BESIDE_BFLOAT16)):
        return torch.float32
    return dtype
