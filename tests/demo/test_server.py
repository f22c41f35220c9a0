"""The server without a browser: what programs get, and what nobody gets."""

from __future__ import annotations

import base64
import io
import json
import os
import time
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


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server whose pictures take their time, and where it keeps what was said."""
    folder = tmp_path_factory.mktemp("slow")
    with served(folder, pause=0.3) as url:
        yield url, folder


def ended(root: Path, name: str) -> list[str]:
    """How the answers of a saved conversation ended, once there are any."""
    until = time.monotonic() + 60
    while not (found := list(root.glob(f"conversations/*/{name}/conversation.json"))):
        assert time.monotonic() < until, "the conversation is not saved"
        time.sleep(0.05)
    return [turn["reason"] for turn in json.loads(found[0].read_text())["turns"]]


def test_an_answer_streams_to_a_program(slow: tuple[str, Path]):
    from gradio_client import Client

    job = Client(slow[0], verbose=False).submit(message="How do I assemble a stool?", seed=3, api_name="/chat")
    states = list(job)
    last = job.result()
    assert last["seed"] == 3 and len(last["pictures"]) == 2 and last["note"] == "" and states[-1] == last
    assert all(last["text"].startswith(state["text"]) for state in states)
    early = next(state for state in states if state["note"].startswith("Step 2"))
    assert early["pictures"] == last["pictures"][:1] and "You are done!" not in early["text"]
    notes = dict.fromkeys(state["note"] for state in states if state["note"])
    assert [*notes][:3] == ["Step 1: scale 1 of 3", "Step 1: scale 2 of 3", "Step 1: last details"]


def test_a_program_that_cancels_stops_the_drawing_and_goes_on(slow: tuple[str, Path]):
    from gradio_client import Client

    address, root = slow
    client = Client(address, verbose=False)
    job = client.submit(message="How do I assemble a stool?", api_name="/chat")
    state = next(state for state in job if state["note"].startswith("Step 1: scale"))
    job.cancel()
    assert ended(root, state["conversation"].split(".")[1]) == ["cancelled"]
    again = client.predict(message="Again.", conversation=state["conversation"], api_name="/chat")
    assert len(again["pictures"]) == 2 and again["conversation"] == state["conversation"]
    other = client.predict(message="And another?", api_name="/chat")
    assert len(other["pictures"]) == 2, "nobody is in the line any more"


def test_a_program_that_goes_away_stops_the_drawing(slow: tuple[str, Path]):
    address, root = slow
    before = set(root.glob("conversations/*/*"))
    question = json.dumps({"data": ["How do I assemble a stool?", "", "", -1]}).encode()
    asked = urllib.request.Request(
        f"{address}gradio_api/call/chat", question, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked) as found:
        event = json.load(found)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/chat/{event}") as stream:
        while b"Step 1" not in stream.readline():
            pass
    until = time.monotonic() + 60
    while not (new := set(root.glob("conversations/*/*")) - before):
        assert time.monotonic() < until, "the answer goes on for nobody"
        time.sleep(0.05)
    assert ended(root, new.pop().name) == ["cancelled"]


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
