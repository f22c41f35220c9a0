"""Files as one zip archive, the same bytes from the same files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

EPOCH = (1980, 1, 1, 0, 0, 0)
_PACKED = (".png", ".pdf")


def to_zip(files: Mapping[str, bytes]) -> bytes:
    """The archive of `files` (names with forward slashes), sorted by name, all of one fixed date."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.create_system = 3  # Unix, on every system, or the bytes would differ.
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(_PACKED) else zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return stream.getvalue()
