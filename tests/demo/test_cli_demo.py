"""`vlm demo`: what it refuses before anything loads, and what it serves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm.cli import app


def run(*words: str):
    return CliRunner().invoke(app, ["demo", *words])


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    without = lambda name, *rest: None if name == "gradio" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", without)
    done = run()
    assert done.exit_code == 2 and "pip install" in done.output


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path):
    done = run("--bundle", str(tmp_path / "gone"))
    assert done.exit_code == 2 and "gone" in done.output and len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("auth", ["nobody", ":secret", "me:"])
def test_a_password_needs_a_user_and_both_need_a_character(tmp_path: Path, auth: str):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    import gradio as gr

    from demo.server import launch
    from vlm.errors import UserError

    with gr.Blocks() as blocks:
        gr.Markdown("x")
    with pytest.raises(UserError, match="user:password"):
        launch(blocks, auth=auth, wait=False)
