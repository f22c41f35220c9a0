"""Outputs whole or not at all, also after a kill: leftovers of the dead are cleared, those of the living stay."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import vlm.files
from vlm.files import clear_leftovers, output_file, output_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs locks on files and folders")


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Leftovers count as such at once."""
    monkeypatch.setattr(vlm.files, "SETTLED", -1.0)


def killed(work) -> None:
    """Run `work` in a process of its own, which dies at its end without any clean-up."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(9)
    assert os.waitpid(child, 0)[1] == 9 << 8


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_a_file(target: Path) -> None:
    writer = output_file(target)
    writer.__enter__().write_text("half")
    os._exit(9)


def half_a_folder(target: Path) -> None:
    writer = output_folder(target, marker="m", force=True)
    (writer.__enter__() / "m").write_text("half")
    os._exit(9)


def test_a_killed_writer_s_leftovers_go_with_the_next_write_to_the_same_place(tmp_path):
    for target in (tmp_path / "a", tmp_path / "b"):
        killed(lambda target=target: half_a_file(target))
    assert len(names(tmp_path)) == 2 and not (tmp_path / "a").exists()
    with output_file(tmp_path / "a") as staging:
        staging.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole" and len(names(tmp_path)) == 2
    killed(lambda: half_a_folder(tmp_path / "g"))
    assert len(names(tmp_path)) == 3
    with output_folder(tmp_path / "g", marker="m") as folder:
        (folder / "m").write_text("whole")
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["a", "g"] and (tmp_path / "g" / "m").read_text() == "whole"


def test_what_a_living_writer_holds_stays(tmp_path):
    with output_file(tmp_path / "a") as first, output_folder(tmp_path / "g", marker="m") as folder:
        first.write_text("first")
        (folder / "m").write_text("folder")
        with output_file(tmp_path / "a") as second:
            second.write_text("second")
        clear_leftovers(tmp_path)
        assert first.read_text() == "first" and (folder / "m").read_text() == "folder"
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a", "g"]


def test_a_leftover_of_this_moment_stays(tmp_path, monkeypatch):
    killed(lambda: half_a_file(tmp_path / "a"))
    monkeypatch.setattr(vlm.files, "SETTLED", 60.0)
    clear_leftovers(tmp_path)
    assert len(names(tmp_path)) == 1


def test_a_folder_that_was_gone_when_the_kill_came_is_put_back(tmp_path, monkeypatch):
    with output_folder(tmp_path / "g", marker="m") as folder:
        (folder / "m").write_text("old")
    rename = os.rename

    def dies(source, target):
        if Path(target) == tmp_path / "g":
            os._exit(9)
        rename(source, target)

    def replace() -> None:
        os.rename = dies
        with output_folder(tmp_path / "g", marker="m", force=True) as folder:
            (folder / "m").write_text("new")

    killed(replace)
    assert not (tmp_path / "g").exists()
    with pytest.raises(Exception, match="not empty"), output_folder(tmp_path / "g", marker="m"):
        pass
    assert (tmp_path / "g" / "m").read_text() == "old" and names(tmp_path) == ["g"]


def test_errors_of_the_body_come_through(tmp_path):
    with pytest.raises(OSError, match="body"), output_file(tmp_path / "a"):
        raise OSError("body")
    assert names(tmp_path) == []


def test_others_may_read_a_folder_as_they_may_read_new_files(tmp_path):
    """Though safetensors, like a temporary folder, lets nobody but the owner."""
    with output_folder(tmp_path / "out", marker="a") as staging:
        (staging / "sub").mkdir(mode=0o700)
        (staging / "sub" / "weights").touch(mode=0o600)
        (staging / "link").symlink_to("/etc/passwd")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "out" / "sub").stat().st_mode
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert (tmp_path / "out" / "sub" / "weights").stat().st_mode == (tmp_path / "new" / "file").stat().st_mode
