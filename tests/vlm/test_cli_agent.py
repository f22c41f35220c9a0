"""`vlm chat`, `draw`, `ask` and `doctor`: what they print where, their exit codes, what they leave behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from agent_fixtures import GREEN, GUIDE, script, tiny_agent
from PIL import Image
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1]))

from picture_files import animation, huge_png, samples  # noqa: E402

from vlm.agent import draw_message
from vlm.cli import app
from vlm.cli.terminal import shown
from vlm.events import ImageDone, ImagePreview
from vlm.guide import PICTURE
from vlm.png import read_origin

runner = CliRunner()
STOOL = f"Here is a red stool.\n{PICTURE}\n"


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """An empty folder to be in, where the bundled model is a tiny one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlm.bundle.check_bundle", lambda folder: None)
    monkeypatch.setattr("vlm.agent.load_agent", lambda bundle, *, device, dtype, seed: agent_with(seed))
    return tmp_path


def agent_with(seed: int):
    agent = tiny_agent()
    agent.seed = seed
    return agent


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def photo(here) -> Path:
    path = here.parent / "photo.png"
    Image.new("RGB", (40, 20), (200, 30, 30)).save(path)
    return path


def test_draw_writes_a_picture_that_says_where_it_comes_from(here, monkeypatch):
    script(monkeypatch, STOOL)
    done = runner.invoke(app, ["draw", "a red stool", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "Here is a red stool.\n" and "[picture 1] scale 1/3 2/3 3/3, drawn in" in done.stderr
    assert re.search(r"Wrote out/a-red-stool.png \(\d+\.\d s\)", done.stderr)
    origin = read_origin(here / "out" / "a-red-stool.png")
    assert (origin.prompt, origin.seed, origin.model) == ("a red stool", 3, "0" * 16)
    before = (here / "out" / "a-red-stool.png").read_bytes()
    assert runner.invoke(app, ["draw", "a red stool", "-o", "b.png", "--seed", "3", "-q"]).stdout.startswith("Wrote")
    assert (here / "b.png").read_bytes() == before
    assert runner.invoke(app, ["draw", "a red stool", "-o", "b.png", "--seed", "4", "--force"]).exit_code == 0
    assert (here / "b.png").read_bytes() != before


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a red stool", "Draw a red stool."),
        ("red bench with two slats", "Draw a red bench with two slats."),
        ("Orange bed.", "Draw an Orange bed."),
        ("The same stool", "Draw The same stool."),
        ("sketch a stool", "sketch a stool"),
        ("What does a stool look like?", "What does a stool look like?"),
        ("Draw me a stool, please.", "Draw me a stool, please."),
        ("42", "Draw a 42."),
    ],
)
def test_whatever_is_no_sentence_is_asked_to_be_drawn(prompt, asked):
    assert draw_message(prompt) == asked


def test_of_a_guide_the_last_picture_is_kept(here, monkeypatch):
    script(monkeypatch, GUIDE)
    agent = tiny_agent()
    drawn = agent.draw("Draw a stool")
    made = agent.session()
    script(monkeypatch, GUIDE)
    last = [event.image for event in made.reply("Draw a stool") if isinstance(event, ImageDone)][-1]
    assert drawn.image.tobytes() == last.tobytes()


def test_a_drawing_outside_the_world_is_three_and_leaves_nothing(here, monkeypatch):
    script(monkeypatch, "I know furniture only.")
    done = runner.invoke(app, ["draw", "a song", "-o", "a/b.png", "-q"])
    assert (done.exit_code, done.stdout) == (3, "I know furniture only.\n") and left(here) == []
    # Said as it came, and not twice.
    done = runner.invoke(app, ["draw", "a song", "-o", "a/b.png"])
    assert (done.exit_code, done.stdout) == (3, "I know furniture only.\n") and left(here) == []


def test_ask_answers_on_standard_output(here, photo, monkeypatch):
    script(monkeypatch, "This is step 2.")
    done = runner.invoke(app, ["ask", str(photo), "which step is this?"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "This is step 2.\n", "")
    script(monkeypatch, f"2. Attach leg 2.\n{PICTURE}")
    done = runner.invoke(app, ["ask", str(photo), "What comes next?"])
    assert (done.exit_code, done.stdout) == (0, "2. Attach leg 2.\n")
    assert "--out FILE.png keeps it" in done.stderr and left(here) == []
    done = runner.invoke(app, ["ask", str(photo), "What comes next?", "-o", "next.png", "--seed", "3"])
    assert done.exit_code == 0 and read_origin(here / "next.png").seed == 3
    done = runner.invoke(app, ["ask", str(photo), "What comes next?", "-o", "next.png"])
    assert done.exit_code == 2 and "next.png exists" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["draw", " "], "the prompt is empty"),
        (["draw", "x", "-o", "taken.png"], "taken.png exists"),
        (["draw", "x", "-o", "x.jpg"], "does not end in .png"),
        (["draw", "x", "-o", "/proc/none/x.png"], "cannot use /proc/none/x.png"),
        (["draw", "x", "--hart", "llm"], "needs --text-model"),
        (["draw", "x", "--size", "256"], "--size is for the public release"),
        (["draw", "x", "--adapter", "mine"], "mine is missing"),
        (["ask", "none.png", "what?"], "none.png"),
        (["ask", "text.png", "what?"], "text.png"),
        (["ask", "taken.png", ""], "the prompt is empty"),
        (["chat", "full"], "full exists and is not empty"),
        (["chat", "taken.png"], "taken.png is a file"),
    ],
)
def test_bad_input_is_one_line_and_two(here, arguments, told):
    Image.new("RGB", (9, 9)).save(here / "taken.png")
    (here / "text.png").write_text("not a picture")
    (here / "full").mkdir()
    (here / "full" / "file").write_text("x")
    before = left(here)
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert told in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert left(here) == before


@pytest.mark.parametrize("name", sorted(samples()))
def test_any_whole_picture_can_be_asked_about(here, monkeypatch, name):
    (here / name).write_bytes(samples()[name])
    script(monkeypatch, "It is a stool.")
    done = runner.invoke(app, ["ask", name, "what is it?"])
    assert done.exit_code == 0 and done.stdout.strip() == "It is a stool."


@pytest.mark.parametrize(
    "name, content",
    [
        ("cut.png", samples()["rgb.png"][:60]),
        ("corrupt.jpg", samples()["plain.jpg"][:20] + bytes(200)),
        ("moving.gif", animation("GIF")),
        ("moving.webp", animation("WEBP")),
        ("bomb.png", huge_png()),
        ("words.png", b"These are words."),
        ("empty.png", b""),
    ],
)
def test_a_picture_that_cannot_be_used_is_named_in_one_line(here, monkeypatch, name, content):
    (here / name).write_bytes(content)
    monkeypatch.setattr("vlm.agent.load_agent", lambda *rest, **more: pytest.fail("the model was loaded"))
    done = runner.invoke(app, ["ask", name, "what is it?"])
    assert done.exit_code == 2 and not done.stdout
    assert name in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["ask", "which step is this?"], ["draw", "x", "--guidance", "-1"], ["draw"]])
def test_usage_errors_are_two(arguments):
    assert runner.invoke(app, arguments).exit_code == 2


def test_a_chat_streams_and_is_saved_after_every_turn(here, photo, monkeypatch):
    script(monkeypatch, "Hello.", GUIDE, "This is step 2.", GREEN)
    lines = ["Hi", "A red stool?", "", f"/picture {photo}", "Which step?", "/redraw 1 9", "/edit 2 Attach leg 12."]
    done = runner.invoke(app, ["chat", "talk"], input="\n".join([*lines, "/guide stool", "The same in green"]))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Hello.\n# Red stool\nShort.\n") and "This is step 2.\n" in done.stdout
    assert "# Green stool" in done.stdout and "Saved in talk" in done.stderr
    assert done.stderr.count("[picture 1]") == 3 and "\x1b" not in done.output
    assert (here / "stool" / "guide.html").is_file() and (here / "stool" / "replay.json").is_file()
    session = tiny_agent().load_session(here / "talk")
    assert [turn.guide for turn in session.turns] == [False, True, False, True]
    assert [(action.do, action.step, action.seed) for action in session.actions] == [
        ("answer", None, None), ("answer", None, None), ("answer", None, None),
        ("redraw", 1, 9), ("edit", 2, 10), ("answer", None, None),
    ]  # fmt: skip
    assert session.turns[2].message[1] == "Which step?"


def test_a_chat_goes_on_where_it_was(here, monkeypatch):
    script(monkeypatch, "Yes.")
    assert runner.invoke(app, ["chat", "talk", "--system", "Be brief."], input="One?\nTwo?\n/undo\n").exit_code == 0
    assert runner.invoke(app, ["chat", "talk", "--seed", "40"], input="/seed 99\nThree?\n/quit\nFour?\n").exit_code == 0
    session = tiny_agent().load_session(here / "talk")
    assert [turn.message for turn in session.turns] == [("One?",), ("Three?",)]
    assert session.system == "Be brief." and session.turns[1].options.seed == 99
    done = runner.invoke(app, ["chat", "talk", "--system", "x"], input="")
    assert done.exit_code == 2 and "cannot change" in done.stderr
    # By a link too, its next answer with the seed that is given and the one after that with its own.
    (here / "link").symlink_to("talk")
    assert runner.invoke(app, ["chat", "link", "--seed", "40"], input="Four?\nFive?\n").exit_code == 0
    seeds = [turn.options.seed for turn in tiny_agent().load_session(here / "talk").turns]
    assert seeds[2:] == [40, tiny_agent().load_session(here / "talk").seed + 3] and (here / "link").is_symlink()
    (here / "full").mkdir()
    (here / "full" / "notes.txt").touch()
    done = runner.invoke(app, ["chat", "full"], input="")
    assert done.exit_code == 2 and done.stderr.strip().endswith("full exists and is not empty; name another folder")


def test_a_guide_goes_again_to_the_place_where_this_talk_wrote_it(here, monkeypatch):
    script(monkeypatch, GUIDE)
    lines = ["A stool?", "/guide stool", "/redraw 1 9", "/guide stool"]
    assert runner.invoke(app, ["chat", "talk"], input="\n".join(lines)).exit_code == 0
    assert [read_origin(path).seed for path in sorted((here / "stool").rglob("*.png"))] == [9, 0]
    done = runner.invoke(app, ["chat", "talk"], input="/guide stool")
    assert done.exit_code == 2 and done.stderr.strip().endswith("exists and is not empty; give /guide another place")
    (here / "stool.pdf").touch()
    done = runner.invoke(app, ["chat", "talk"], input="/guide stool.pdf")
    assert done.exit_code == 2 and done.stderr.strip().endswith("stool.pdf exists; give /guide another place")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/dance", "/dance is no command"),
        ("/picture none.png", "none.png"),
        ("/redraw 1", "no guide yet"),
        ("/redraw one", "no whole number"),
        ("/undo", "no message yet"),
        ("/retry", "no message yet"),
        ("/guide", "needs a place"),
        ("a\x00b", "control character"),
        (b"\xff\xfe", "UTF-8"),
        ("x" * 3000, "at most 2,000"),
    ],
)
def test_a_bad_line_of_a_script_ends_it_with_two(here, line, told, monkeypatch):
    script(monkeypatch, "Yes.")
    given = line if isinstance(line, bytes) else line.encode()
    done = runner.invoke(app, ["chat", "talk"], input=given + b"\nHi\n")
    assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.output
    assert left(here) == []


def test_ctrl_c_in_an_answer_is_130_and_keeps_what_was_said(here, monkeypatch):
    script(monkeypatch, "Yes.", GUIDE)
    calls: list[int] = []

    def interrupted(self, event):
        calls.append(1)
        if isinstance(event, ImagePreview) and event.index == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("vlm.cli.progress.AnswerPrinter.__call__", interrupted)
    done = runner.invoke(app, ["chat", "talk"], input="Hi\nA red stool?\nMore?\n")
    assert done.exit_code == 130 and "stopped" in done.stderr
    session = tiny_agent().load_session(here / "talk")
    assert [turn.reason for turn in session.turns] == ["stop", "cancelled"]
    assert len(session.turns[1].answer.residuals) == 1
    assert not list(here.rglob("*.partial"))


def test_ctrl_c_while_drawing_leaves_nothing(here, monkeypatch):
    script(monkeypatch, STOOL)

    def interrupted(self, event):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlm.cli.progress.AnswerPrinter.__call__", interrupted)
    assert runner.invoke(app, ["draw", "a stool", "-o", "a/b.png"]).exit_code == 130
    assert left(here) == []


@pytest.mark.parametrize(
    ("environment", "begins"),
    [
        ({}, ""),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, ""),
        ({"TERM": "xterm", "COLORTERM": "truecolor", "NO_COLOR": "1"}, ""),
        ({"TERM": "xterm-256color"}, ""),
        ({"TERM": "xterm-kitty"}, "\x1b_Ga=T,f=100,m="),
        ({"TERM": "xterm", "TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=inline=1"),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app", "COLORTERM": "truecolor"}, "\x1b[38;2;200;30;30m"),
        ({"TERM": "xterm", "COLORTERM": "24bit"}, "\x1b[38;2;200;30;30m\x1b[48;2;200;30;30m▀"),
    ],
)
def test_pictures_are_shown_where_the_terminal_can(environment, begins):
    out = shown(Image.new("RGB", (128, 128), (200, 30, 30)), environment)
    assert out.startswith(begins) and bool(out) == bool(begins)
    assert not out or out.endswith("\n")


def test_half_blocks_show_the_picture_upright():
    picture = Image.new("RGB", (48, 48), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 24, 24, 48))
    lines = shown(picture, {"TERM": "xterm", "COLORTERM": "truecolor"}).splitlines()
    cells = [re.findall(r"38;2;(\d+);0;(\d+)m\x1b\[48;2;(\d+);0;(\d+)m", line) for line in lines]
    assert len(cells) == 24 and {len(row) for row in cells} == {48}
    red, blue = ("255", "0") * 2, ("0", "255") * 2
    assert {cell for row in cells[:12] for cell in row} == {red}
    assert {cell for row in cells[12:] for cell in row[:24]} == {blue}
    assert {cell for row in cells[12:] for cell in row[24:]} == {red}
