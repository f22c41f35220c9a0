"""The colours that parts are named by, as the dots beside their names."""

from __future__ import annotations

from vlm.flatpack.style import HOUSE_PALETTE

SWATCHES = {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in HOUSE_PALETTE.items()}
