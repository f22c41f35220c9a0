"""Pictures and downloads that a browser may fetch: under names nobody can guess, and not for ever.

Knows one folder, whose content is served. Conversations lie elsewhere, and are not.
"""

from __future__ import annotations

import math
import re
import secrets
import shutil
import time
from pathlib import Path

from PIL import Image

from vlm.errors import UserError
from vlm.pictures import MAX_BYTES

_SERVED = re.compile(r"[0-9a-f]*-[0-9a-f]{32}|[0-9a-f]{32,64}")


class ServedFiles:
    """folder: made when missing. age: seconds after which a file may be cleaned away. owner: whose files these are, a
    beginning of their names."""

    def __init__(self, folder: Path, age: float = 24 * 3600, owner: str = "") -> None:
        self.folder = folder
        self.age = age
        self.owner = owner
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, owner: str) -> ServedFiles:
        """The same folder, for files that `drop_all` removes together. owner: hexadecimal digits."""
        return ServedFiles(self.folder, self.age, owner)

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

    def drop_all(self) -> None:
        """Remove every file of this owner, whoever kept it."""
        for entry in self.folder.glob(f"{self.owner}-*"):
            shutil.rmtree(entry, ignore_errors=True)

    def clean(self) -> int:
        """Remove what was served and is older than `age`; returns how many entries went.

        What bears another name than this page or Gradio gives stays.
        """
        limit = time.time() - self.age
        old = [entry for entry in self.folder.iterdir() if _SERVED.fullmatch(entry.name) and _changed(entry) < limit]
        for entry in old:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        return len(old)

    def _free(self) -> Path:
        folder = self.folder / f"{self.owner}-{secrets.token_hex(16)}"
        folder.mkdir(mode=0o700)
        return folder


def _changed(entry: Path) -> float:
    """When it was changed, in seconds since 1970; of one that another thread removed just now: never old."""
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return math.inf


def read_upload(path: Path) -> bytes:
    """The content of an upload; one byte more than is allowed of a larger one. Raises `UserError` where it has gone."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError("the picture is no longer on the server; choose it again") from error
