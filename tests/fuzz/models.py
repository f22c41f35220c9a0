"""What is read together with a model: a whole bundle and a saved conversation, of a tiny model with random weights."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.run import Mutate, Target

sys.path.append(str(Path(__file__).parents[1] / "vlm"))

import torch  # noqa: E402
from stream_fixtures import drawing_model, model, processor  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from vlm.agent import ChatAgent, agent_of  # noqa: E402
from vlm.bundle import load_bundle, save_bundle  # noqa: E402
from vlm.conversations import load_conversation, save_conversation  # noqa: E402
from vlm.saved import CONVERSATION_FILE  # noqa: E402

disable_progress_bar()


def _bundle_file(name: str, mutate: Mutate) -> Target:
    def make(folder: Path) -> list[bytes]:
        built = model()
        save_bundle(built, processor(built), folder / "bundle")
        return [(folder / "bundle" / name).read_bytes()]

    def read(folder: Path) -> None:
        found, loaded = load_bundle(folder / "bundle")
        assert loaded.decode_text(loaded.encode_text("a stool")) == "a stool"
        assert all(value.isfinite().all() for value in found.state_dict().values())

    return Target(f"bundle {name}", f"bundle/{name}", make, mutate, read)


@cache
def _agent() -> ChatAgent:
    built = drawing_model()
    return agent_of(built, processor(built), "0123456789abcdef", context=512)


def _conversation_file(name: str, mutate: Mutate) -> Target:
    def make(folder: Path) -> list[bytes]:
        torch.manual_seed(0)
        session = _agent().session(system="Be brief.")
        for _ in session.reply("How do I assemble a stool?", max_new_tokens=12):
            pass
        save_conversation(session, folder / "talk")
        return [next(folder.glob(f"talk/{name}")).read_bytes()]

    def read(folder: Path) -> None:
        session = load_conversation(_agent().backbone, folder / "talk")
        assert session.seed >= 0

    return Target(f"conversation {name}", f"talk/{name}", make, mutate, read)


MODEL_TARGETS = (
    _bundle_file("config.json", mutate_json),
    _bundle_file("stream_processor.json", mutate_json),
    _bundle_file("tokenizer.json", mutate_bytes),
    _bundle_file("tokenizer_config.json", mutate_json),
    _bundle_file("model.safetensors", mutate_bytes),
    _conversation_file(CONVERSATION_FILE, mutate_json),
    _conversation_file("stream-*.safetensors", mutate_bytes),
)
