"""The demo over a tiny, scripted model, served in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from adapter_fixtures import stored
from agent_fixtures import GUIDE, script, tiny_agent

from adapters.lora import LoraSettings
from adapters.registry import Adapters
from demo.line import Line
from demo.menu import ModelMenu
from demo.room import Room
from demo.rooms import Rooms
from demo.settings import Settings
from vlm.agent import ChatAgent

VISITOR, OTHER = "a" * 32, "b" * 32
NAME = "c" * 32
ASK = "How do I assemble a stool?"
QUICK = Settings(temperature=1.0, code_temperature=1.0)


def tiny_rooms(root: Path, *, line: Line | None = None, **changes) -> Rooms:
    """Rooms over one tiny model."""
    return Rooms(root, ModelMenu.of(ChatAgent(tiny_agent().backbone)), line or Line(), **changes)


def run(room: Room, running) -> list[list[dict]]:
    """Let an action run to its end; what was shown each time."""
    return [room.messages() for _ in running]


def pictures(message: dict) -> list[str]:
    """Paths of the pictures of a message."""
    return [part["path"] for part in message["content"] if "path" in part]


def words(message: dict) -> str:
    """The text of a message."""
    return "\n".join(part["text"] for part in message["content"] if "text" in part)


def contents(paths: list[str]) -> list[bytes]:
    """What is in files."""
    return [Path(path).read_bytes() for path in paths]


def adapted_menu() -> ModelMenu:
    """The model of `tiny_rooms` with an adapter that changes every place, and another of other settings without."""
    plain = tiny_agent()
    adapters = Adapters(plain.model, plain.fingerprint)
    places = LoraSettings(rank=3, alpha=6.0)
    adapters.add(stored(plain.model, places, base=plain.fingerprint), "style")
    backbone = replace(
        plain.backbone, use_adapter=adapters.use, speaker_of=adapters.speaker, decoding=adapters.decoding
    )
    agents = {"one": ChatAgent(backbone), "two": tiny_agent(seed=1, guidance=4.0, residual_steps=5)}
    return ModelMenu({name: lambda agent=agent: agent for name, agent in agents.items()}, {"one": adapters.names})


@contextmanager
def served(
    root: Path,
    model: ChatAgent | ModelMenu | None = None,
    pause: float = 0.0,
    answer: str = GUIDE,
    drawing: Callable[[], object] = lambda: None,
    **options,
) -> Iterator[str]:
    """The address of a demo that says `answer` to everything; pause: seconds that each picture's scale takes longer;
    drawing: called before each scale."""
    import vlm.generate
    from demo.app import build_app
    from demo.server import launch

    plain = vlm.generate._decode

    def slow(*given):
        time.sleep(pause)
        drawing()
        return plain(*given)

    with pytest.MonkeyPatch.context() as patch:
        script(patch, answer)
        patch.setattr("vlm.generate._decode", slow)
        patch.setenv("GRADIO_TEMP_DIR", "")  # Set below, and afterwards again that of a server around this one.
        app = build_app(model or ChatAgent(tiny_agent().backbone), root, **options)
        try:
            yield launch(app, wait=False, root=root)
        finally:
            app.close()
