"""The server without a browser: what programs get, and what nobody gets."""

from __future__ import annotations

import base64
import io
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_fixtures import served
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with served(root) as url:
        yield url


def test_a_program_has_a_conversation(address: str):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    first = client.predict(message="How do I assemble a stool?", seed=3, api_name="/chat")
    assert first["seed"] == 3 and "1. Attach leg 1." in first["text"]
    shown = [Image.open(io.BytesIO(base64.b64decode(picture["png"]))).size for picture in first["pictures"]]
    assert shown == [(32, 32), (32, 32)]
    second = client.predict(message="Again.", conversation=first["conversation"], api_name="/chat")
    assert second["conversation"] == first["conversation"] and second["seed"] != first["seed"]
    with pytest.raises(AppError, match="empty"):
        client.predict(message=" ", api_name="/chat")
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/chat"], "the page's own are not public"


def fetched(address: str, path: str) -> bytes:
    with urllib.request.urlopen(f"{address}gradio_api/file={path}") as answer:
        return answer.read()


@pytest.fixture(scope="module")
def conversation(address: str, root: Path) -> Path:
    """The file of a conversation that somebody had."""
    from gradio_client import Client

    Client(address, verbose=False).predict(message="How do I assemble a stool?", api_name="/chat")
    return next(root.glob("conversations/*/*/conversation.json"))


def test_pictures_are_served_and_nothing_beside_them(address: str, root: Path, conversation: Path):
    picture = next(root.glob("served/*/picture.png"))
    assert fetched(address, str(picture)) == picture.read_bytes()
    outside = root.parent / "outside.txt"
    outside.write_text("private")
    drawn = next(conversation.parent.glob("pictures/*.png"))
    within = [path.relative_to(root) for path in (root / "secret", conversation, drawn)]
    for path in [outside, Path(__file__), *(root / place for place in within)]:
        assert path.is_file()
        for spelt in (str(path), f"{root}/served/{os.path.relpath(path, root / 'served')}", f"{picture.parent}/../../"
                      f"{os.path.relpath(path, root)}", urllib.parse.quote(str(path), safe="")):  # fmt: skip
            with pytest.raises(urllib.error.HTTPError) as refused:
                fetched(address, spelt)
            assert refused.value.code in (403, 404), spelt


def test_with_a_password_nobody_gets_in_without_it():
    import gradio as gr

    from demo.server import launch

    with gr.Blocks() as blocks:
        gr.api(lambda: "inside", api_name="peek")
    address = launch(blocks, auth="me:secret", wait=False)
    try:
        for place in ("config", "gradio_api/info"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address + place)
            assert refused.value.code == 401
        form = urllib.parse.urlencode({"username": "me", "password": "wrong"}).encode()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + "login", form)
        assert refused.value.code == 400
    finally:
        blocks.close()


def test_a_server_that_cannot_be_reached_is_told_in_one_line(monkeypatch):
    import gradio as gr

    from demo.server import launch
    from vlm.errors import UserError

    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    with gr.Blocks() as blocks:
        gr.api(lambda: "inside", api_name="peek")
    try:
        with pytest.raises(UserError, match="did not answer itself.*NO_PROXY"):
            launch(blocks, wait=False)
    finally:
        blocks.close()


def test_it_listens_on_this_machine_alone(address: str):
    assert address.startswith("http://127.0.0.1:")


def test_the_key_is_kept_to_its_owner_and_stays(address: str, root: Path):
    assert (root / "secret").stat().st_mode & 0o077 == 0
    assert len((root / "secret").read_text()) == 32
