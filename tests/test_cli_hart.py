"""`vlm convert` and what `vlm draw --hart` calls: files, progress, one line for each mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent / "hart"))

from hart_fixtures import write_release, write_text_model  # noqa: E402

from vlm.cli import app  # noqa: E402
from vlm.cli.hart import draw_with_hart  # noqa: E402
from vlm.errors import UserError  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("hart")
    return write_release(folder / "release"), write_text_model(folder / "text")


def draw(folders, out: Path, **options):
    llm, text = folders
    return draw_with_hart("red", llm, text, out, **({"device": "cpu", "size": 6} | options))


def test_draw_writes_a_png_that_says_where_it_comes_from(folders, tmp_path, capsys):
    draw(folders, tmp_path / "heart.png", seed=3)
    with Image.open(tmp_path / "heart.png") as image:
        assert image.size == (6, 6) and image.text["prompt"] == "red" and image.text["seed"] == "3"
    said = capsys.readouterr()
    assert "Read llm/pytorch_model.bin" in said.err and "scale 1/3 2/3 3/3, drawn in" in said.err and not said.out
    draw(folders, tmp_path / "again.png", seed=3, quiet=True)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "heart.png").read_bytes()
    assert capsys.readouterr().err == ""


def test_a_long_prompt_is_said_even_when_quiet(folders, tmp_path, capsys):
    llm, text = folders
    draw_with_hart("a red heart", llm, text, tmp_path / "a.png", device="cpu", quiet=True)
    assert "the prompt is too long, its last 6 tokens are left out" in capsys.readouterr().err


def test_converted_folder_draws_the_same(folders, tmp_path):
    llm, text = folders
    result = CliRunner().invoke(app, ["convert", str(llm), "--out", str(tmp_path / "own")])
    assert result.exit_code == 0, result.output
    assert "Read llm/pytorch_model.bin" in result.output and "Wrote" in result.output
    first = draw(folders, tmp_path / "a.png", quiet=True)
    second = draw_with_hart("red", tmp_path / "own", text, tmp_path / "b.png", device="cpu", quiet=True)
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    again = CliRunner().invoke(app, ["convert", str(llm), "--out", str(tmp_path / "own")])
    assert again.exit_code == 2 and "--force" in again.output
    half = ["convert", str(llm), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"]
    assert CliRunner().invoke(app, half).exit_code == 0
    sizes = [(tmp_path / name / "transformer.safetensors").stat().st_size for name in ("own", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_mistakes_are_one_line_and_leave_nothing(folders, tmp_path):
    llm, text = folders
    out = tmp_path / "new" / "heart.png"
    cases = [
        ({"device": "warp"}, "device 'warp' is unknown"), ({"dtype": "int8"}, "precision int8 is not supported"),
        ({"size": 7}, "6 pixels a side, got 7"), ({"guidance": -1.0}, "guidance"),
        ({"instructions": tmp_path / "none.txt"}, "cannot read the instruction text"),
        ({"stop_scale": 9}, r"stop_scale must be in 1\.\.3"),
        ({"moderator": lambda prompt: "not today"}, "was refused: not today"),
    ]  # fmt: skip
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            draw(folders, out, **options)
    with pytest.raises(UserError, match="expected the folder llm"):
        draw((llm.parent / "tokenizer", text), out)
    wide = write_text_model(tmp_path / "wide", width=32)
    with pytest.raises(UserError, match="width 32, this HART was trained on 16"):
        draw((llm, wide), out)
    with pytest.raises(UserError, match=r"cannot be loaded \(The checkpoint you are trying to load [^.]*\)$"):
        draw((llm, llm), out)
    assert not out.parent.exists()


def test_convert_refuses_a_broken_release(folders, tmp_path):
    broken = write_release(tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"depth": 3}))
    result = CliRunner().invoke(app, ["convert", str(broken), "--out", str(tmp_path / "own")])
    assert result.exit_code == 2 and "missing: blocks.2." in result.output
    assert not (tmp_path / "own").exists()
