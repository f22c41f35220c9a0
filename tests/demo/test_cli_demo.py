"""`vlm demo`: what it refuses before anything loads, and what it serves."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.folder import save_adapter
from adapters.lora import LoraSettings
from demo.menu import ModelMenu
from vlm.bundle import fingerprint
from vlm.cli import app
from vlm.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "adapters"))

from adapter_fixtures import model, processor, stored  # noqa: E402


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

    with gr.Blocks() as blocks:
        gr.Markdown("x")
    with pytest.raises(UserError, match="user:password"):
        launch(blocks, auth=auth, wait=False)


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    """A folder with a bundle, and an adapter of it beside it."""
    built = model()
    built.save_pretrained(tmp_path / "base")
    processor(built).save_pretrained(tmp_path / "base")
    adapter = stored(built, LoraSettings(rank=2), base=fingerprint(tmp_path / "base"))
    save_adapter(adapter, tmp_path / "style", ["text"])
    return tmp_path


def test_adapters_beside_a_model_are_in_its_menu(adapted: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    menus: list[ModelMenu] = []

    def stop(menu: ModelMenu, *rest: object, **more: object) -> None:
        menus.append(menu)
        raise UserError("far enough")

    monkeypatch.setattr("demo.app.build_app", stop)
    run("--bundle", str(adapted / "base"), "--data", str(adapted / "web"))
    (menu,) = menus
    assert menu.adapters(menu.names[0]) == () and menu.adapters(menu.names[1]) == ("style",)
    agent = menu.agent(menu.names[1])
    with agent.session().using("style"):
        pass


def test_adapters_that_nothing_can_use_and_answers_at_once_are_refused(adapted: Path):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    done = run("--adapter", str(adapted / "base"), "--data", str(adapted / "web"))
    assert done.exit_code == 2 and "holds no adapter of these models" in done.output
    done = run("--bundle", str(adapted / "base"), "--at-once", "2", "--data", str(adapted / "web"))
    assert done.exit_code == 2 and "--at-once 1" in done.output
