"""Checksums of a bundle's files, in the form of `sha256sum`: proof that a download is whole. Knows no model."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from vlm.errors import UserError
from vlm.files import output_file

CHECKSUMS_FILE = "checksums"
_LINE = re.compile(r"(?P<sum>[0-9a-f]{64}) [ *](?P<name>[^/\\]+)")


def write_checksums(folder: Path) -> Path:
    """Write the checksums of all files in `folder` (not below it, nor hidden) to the file of that name in it."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    lines = [f"{_sum(folder / name)}  {name}\n" for name in names if name != CHECKSUMS_FILE]
    with output_file(folder / CHECKSUMS_FILE) as staging:
        staging.write_text("".join(lines), encoding="utf-8", newline="\n")
    return folder / CHECKSUMS_FILE


def verify_checksums(folder: Path) -> int | None:
    """How many files agree with the folder's checksums; None where it has none.

    Raises `UserError` naming the first file that is missing or differs, or a line that is no checksum.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}), expected checksums; restore the bundle's files") from error
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{path}, line {number}: expected a SHA-256 and a file name; restore the bundle's files")
        file = folder / found["name"]
        if not file.is_file():
            raise UserError(f"{file} is missing; restore the bundle's files")
        if _sum(file) != found["sum"]:
            raise UserError(f"{file} differs from its checksum in {path.name}; restore the bundle's files")
    return len(lines)


def _sum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
