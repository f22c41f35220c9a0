"""The lines of Python that the README promises, with the weights in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vlm.conversations import save_conversation
from vlm.events import Finished, ImageDone, TextDelta

QUESTION = "How do I assemble a blue stool with three legs?"


@pytest.mark.slow
def test_the_readme_itself_runs(tmp_path, monkeypatch):
    """Its Python, word for word."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert isinstance(names["event"], Finished) and names["guide"].guide.steps
    assert (tmp_path / "stool.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_the_lines_of_the_readme(tmp_path):
    from vlm import load_agent

    agent = load_agent()
    events = list(agent.reply(QUESTION, seed=5, previews=False))
    assert any(isinstance(event, TextDelta) for event in events) and isinstance(events[-1], Finished)

    guide = agent.guide(QUESTION, seed=5, previews=False)
    drawn = [event.image.tobytes() for event in events if isinstance(event, ImageDone)]
    assert [picture.tobytes() for picture in guide.pictures] == drawn
    guide.redraw(step=2)
    assert [a.tobytes() == b for a, b in zip(guide.pictures, drawn, strict=True)] == [
        number != 1 for number in range(len(drawn))
    ]
    assert guide.save(tmp_path / "stool.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_saved_conversation_goes_on_to_the_bit(tmp_path):
    from vlm import load_agent

    agent = load_agent()
    live = agent.session(seed=3)
    list(live.reply("Draw a red bench with two slats.", max_new_tokens=60, previews=False))
    loaded = agent.load_session(save_conversation(live, tmp_path / "talk"))
    for session in (live, loaded):
        list(session.reply("The same in green.", max_new_tokens=60, previews=False))
    assert loaded.turns[1].stream.fingerprint() == live.turns[1].stream.fingerprint()
