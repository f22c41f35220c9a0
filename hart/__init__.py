"""HART: a picture as discrete codes per scale plus a continuous residual, and a transformer that draws them.

Knows: scale schedules, the multi-scale residual quantiser, autoencoders, the residual diffusion head, the
text-to-image transformer and the public release's checkpoints. Does not know: conversations, towers, products.
Source: HART, Tang et al. 2024 (arXiv 2410.10812).

Import from the submodules (``hart.tokenizer``, ``hart.tokens`` ...); importing the package itself loads
nothing. ``hart.TextToImage`` and ``hart.DrawOptions`` are found here too, when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hart.text_to_image import DrawOptions, TextToImage

__all__ = ["DrawOptions", "TextToImage"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from hart import text_to_image

        return getattr(text_to_image, name)
    raise AttributeError(f"module 'hart' has no attribute {name!r}")
