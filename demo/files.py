"""Pictures and downloads that a browser may fetch: under names nobody can guess, and not for ever.

Knows one folder, whose content is served. Conversations lie elsewhere, and are not.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from PIL import Image


class ServedFiles:
    """folder: made when missing. age: seconds after which a file may be cleaned away."""

    def __init__(self, folder: Path, age: float = 24 * 3600) -> None:
        self.folder = folder
        self.age = age
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, image: Image.Image) -> str:
        """Write a picture losslessly; return its path."""
        path = self._free() / "picture.png"
        image.save(path, format="PNG", compress_level=1)
        return str(path)

    def keep_png(self, content: bytes) -> str:
        """Write a PNG file as it is; return its path."""
        path = self._free() / "picture.png"
        path.write_bytes(content)
        return str(path)

    def new_folder(self) -> Path:
        """An empty folder for downloads."""
        return self._free()

    def drop(self, path: str) -> None:
        """Remove a file that this object kept; nothing happens if it has gone already."""
        folder = Path(path).parent
        if folder.parent == self.folder:
            shutil.rmtree(folder, ignore_errors=True)

    def clean(self) -> int:
        """Remove what is older than `age`; returns how many entries went."""
        limit = time.time() - self.age
        old = [entry for entry in self.folder.iterdir() if entry.stat(follow_symlinks=False).st_mtime < limit]
        for entry in old:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        return len(old)

    def _free(self) -> Path:
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder
