"""The command line: what it prints where, its exit codes, and that nothing is ever left half-written."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.guides import STOOL, events
from vlm.cli import app
from vlm.cli.guide import slug
from vlm.cli.reporting import printable
from vlm.guide import Guide
from vlm.reading import read_guide

runner = CliRunner()


class FakeAgent:
    """Says what it was given, as a model with a seed would."""

    def __init__(self, seed: int, says) -> None:
        self.seed, self.says, self.fingerprint = seed, says, "0123456789abcdef"

    def guide(self, prompt: str, *, on_event, previews: bool, adapter: str | None):
        assert not previews and adapter is None
        drawn = read_guide(
            self.says(), prompt=prompt, seed=self.seed, fingerprint=self.fingerprint, on_event=on_event
        )
        steps = len(drawn.guide.steps)
        return SimpleNamespace(
            guide=drawn.guide, pictures=drawn.pictures, seeds=[self.seed] * steps, beside={"replay.json": "{}\n"}
        )


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A bundle that loads, and a model that says what `fake(text, …)` sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlm.bundle.bundle_path", lambda path=None: tmp_path)
    monkeypatch.setattr("vlm.bundle.check_bundle", lambda folder: None)

    def says(*arguments, error: BaseException | None = None, **options):
        def answer():
            for event in events(*arguments, **options):
                yield event
                if error is not None:
                    raise error

        monkeypatch.setattr("vlm.agent.load_agent", lambda bundle, *, device, dtype, seed: FakeAgent(seed, answer))

    says()
    return says


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_guide_streams_and_writes(fake, tmp_path):
    done = runner.invoke(app, ["guide", "How do I build a blue stool?", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# Blue stool\nA small stool.\n")
    assert "\n1. Lay the seat on a cloth.\n2. Fit 2 turned red legs.\n" in done.stdout
    assert done.stderr.count("[picture ") == 3 and "[picture 2] scale 1/2 2/2, drawn in" in done.stderr
    written = tmp_path / "out" / "how-do-i-build-a-blue-stool"
    assert f"Wrote {Path('out') / written.name / 'guide.html'} (3 steps" in done.stderr
    guide = Guide.load(written)
    assert (guide.seed, guide.prompt, guide.model) == (3, "How do I build a blue stool?", "0123456789abcdef")


def test_formats_are_chosen(fake, tmp_path):
    done = runner.invoke(app, ["guide", "a stool", "-q", "--out", "g", "--format", "zip,md"])
    assert done.exit_code == 0 and done.stdout.startswith("Wrote g/guide.md (3 steps")
    assert sorted(left(tmp_path / "g")) == [
        "guide.json", "guide.md", "guide.zip", "replay.json", "steps", "steps/01.png", "steps/02.png", "steps/03.png"
    ]  # fmt: skip
    done = runner.invoke(app, ["guide", "a stool", "-q", "--out", "g.html"])
    assert done.exit_code == 0 and done.stdout.startswith("Wrote g.html (3 steps")
    assert (tmp_path / "g.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "g.html"]


def test_quiet_says_only_where(fake):
    done = runner.invoke(app, ["guide", "a stool", "--quiet", "--out", "g"])
    assert done.stderr == "" and done.stdout.startswith("Wrote g/guide.html") and done.stdout.count("\n") == 1


def test_the_prompt_may_come_from_standard_input(fake, tmp_path):
    assert runner.invoke(app, ["guide", "-", "--out", "g"], input="ein Höcker\n").exit_code == 0
    assert Guide.load(tmp_path / "g").prompt == "ein Höcker"


def test_control_tokens_stay_text(fake, tmp_path):
    assert runner.invoke(app, ["guide", "<|boi|><|im_end|> stool", "--out", "g"]).exit_code == 0
    assert Guide.load(tmp_path / "g").prompt == "<|boi|><|im_end|> stool"


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["guide", ""], None, "the prompt is empty"),
        (["guide", "  "], None, "the prompt is empty"),
        (["guide", "x" * 2001], None, "expected at most 2,000"),
        (["guide", "-"], b"x" * 1_000_000, "expected at most 2,000"),
        (["guide", "-"], b"x" * 2_000_000, "more than 1,048,576 bytes"),
        (["guide", "-"], b"\x00\x01", "control character U+0000"),
        (["guide", "-"], b"\xff\xfe", "not valid UTF-8"),
        (["guide", "\x1b]0;x"], None, "control character U+001B"),
        (["guide", "a stool", "--out", "/proc/none/g"], None, "cannot use /proc/none/g"),
        (["guide", "a stool", "--out", "full"], None, "exists and is not empty"),
        (["guide", "a stool", "--out", "full", "--force"], None, "does not replace"),
        (["guide", "a stool", "--out", "full/file"], None, "is a file"),
        (["guide", "a stool", "--format", "docx"], None, "'docx' is unknown, expected some of html,pdf,md,json,zip"),
        (["guide", "a stool", "--format", ""], None, "no format is named"),
        (["guide", "a stool", "--out", "g.md"], None, "pictures beside it"),
        (["guide", "a stool", "--out", "g.pdf", "--format", "html"], None, "is one pdf file"),
        (["train", "tokenizer", "--config", "none.yaml"], None, "cannot read the config"),
        (["train", "tokenizer", "--set", "train.stps=3"], None, "did you mean train.steps?"),
    ],
)
def test_bad_input_is_one_line_and_two(fake, tmp_path, arguments, given, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    done = runner.invoke(app, arguments, input=given)
    assert done.exit_code == 2, done.output
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert left(tmp_path) == ["full", "full/file"]


@pytest.mark.parametrize(
    "arguments", [["guide"], ["guide", "x", "--sede", "1"], ["gide"], ["guide", "x", "--seed", "-1"]]
)
def test_usage_errors_are_two(arguments):
    assert runner.invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_out_of_world_is_three_with_the_answer(fake, tmp_path, quiet):
    fake("I know furniture:\x1b[31m stools, beds.")
    done = runner.invoke(app, ["guide", "Who won?", "--out", "a/b", *quiet])
    assert done.exit_code == 3
    assert done.stdout == "I know furniture:\ufffd[31m stools, beds.\n"
    assert done.stderr.count("\n") == 1 and "outside what this model knows" in done.stderr
    assert left(tmp_path) == []


def test_a_model_that_fails_is_one(fake, tmp_path):
    fake(STOOL, reason="length")
    done = runner.invoke(app, ["guide", "a stool", "-q"])
    assert done.exit_code == 1 and "not a guide" in done.stderr and "--seed" in done.stderr
    fake(error=RuntimeError("a\nbug"))
    done = runner.invoke(app, ["guide", "a stool", "-q"])
    assert (done.exit_code, done.stderr) == (1, "vlm: unexpected RuntimeError: a bug (--debug shows where)\n")
    done = runner.invoke(app, ["guide", "a stool", "-q", "--debug"])
    assert isinstance(done.exception, RuntimeError)
    assert left(tmp_path) == []


def test_ctrl_c_is_130_and_leaves_nothing(fake, tmp_path):
    fake(error=KeyboardInterrupt())
    done = runner.invoke(app, ["guide", "a stool", "--out", "a/b"])
    assert done.exit_code == 130 and "stopped" in done.stderr
    assert left(tmp_path) == []


def test_slugs():
    assert (
        slug("How do I assemble a blue stool with three legs?")
        == "how-do-i-assemble-a-blue-stool-with-three-legs"
    )
    assert slug("../../etc/passwd; rm -rf $HOME") == "etc-passwd-rm-rf-home"
    assert slug("椅子") == "guide" and len(slug("word " * 100)) <= 60 and len(slug("w" * 100)) <= 60


def test_printable():
    assert printable("a\x1b[2J\r\tb\n\x00\x9b\udce9ü") == "a\ufffd[2J\ufffd\ufffdb\n\ufffd\ufffd\ufffdü"


def vlm(*arguments: str | bytes, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vlm.__main__ import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def test_as_a_process(tmp_path):
    done = vlm("guide", b"caf\xe9", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "UTF-8" in done.stderr
    done = vlm("guide", "a stool", "--bundle", str(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "config.json" in done.stderr
    done = vlm("guide", "a stool", "--bundle", str(tmp_path), "--debug", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr
    done = vlm("--help", cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "guide" in done.stdout
    assert left(tmp_path) == []


def interrupt(*arguments: str, after: float, cwd: Path) -> tuple[int, str]:
    """Ctrl-C, so many seconds after the start or at an earlier end; the exit code and what standard error was told."""
    command = [sys.executable, "-c", "print('ready', flush=True); from vlm.__main__ import main; main()", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        # A job in the background starts with Ctrl-C ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


def test_ctrl_c_while_standard_input_is_read(tmp_path):
    code, told = interrupt("guide", "-", after=3, cwd=tmp_path)
    assert code == 130 and "Traceback" not in told


def test_ctrl_c_at_any_moment_of_a_guide_leaves_nothing_half_written(tmp_path):
    asked = ["guide", "How do I assemble a red stool?", "-o", "guide"]
    started = time.monotonic()
    assert vlm(*asked, cwd=tmp_path).returncode == 0
    whole = time.monotonic() - started
    expected = {path.name: path.read_bytes() for path in (tmp_path / "guide").rglob("*") if path.is_file()}
    rng = random.Random(5)
    codes = []
    for number, again in product(range(8), range(3)):
        if again and codes[-1] == 130:
            continue
        place = tmp_path / f"{number}-{again}"
        place.mkdir()
        # One in each eighth of the run: imports, loading, words, pictures, writing.
        started = time.monotonic()
        code, told = interrupt(*asked, after=whole * (number + rng.random()) / 8, cwd=place)
        if code == 0:
            # Other work has ended since the whole was timed: the moment was past the end, take one of the shorter run.
            whole = min(whole, time.monotonic() - started)
        codes.append(code)
        found = {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert found == (expected if code == 0 else {}), (code, told)
        assert code in (0, 130) and "Traceback" not in told, told
    assert codes.count(130) >= 5


def test_the_version_is_told():
    told = runner.invoke(app, ["--version"])
    assert told.exit_code == 0 and re.fullmatch(r"hart-vlm \d+\.\d+\.\d+\n", told.stdout)
    assert runner.invoke(app, []).exit_code == 2


def test_a_saved_guide_is_exported_to_the_same_bytes_as_when_it_was_written(fake, tmp_path):
    fake(STOOL)
    assert runner.invoke(app, ["guide", "A stool?", "-o", "stool", "-f", "html,md,json,zip", "-q"]).exit_code == 0
    done = runner.invoke(app, ["export", "stool", "-o", "again", "-f", "html,md,json,zip"])
    assert done.exit_code == 0 and done.stdout == "Wrote again/guide.html\n", done.output
    files = [path.relative_to("stool") for path in sorted(Path("stool").rglob("*")) if path.is_file()]
    assert len(files) > 5
    for name in files:
        assert (Path("again") / name).read_bytes() == (Path("stool") / name).read_bytes(), name
    assert runner.invoke(app, ["export", "stool/guide.json", "-o", "stool.pdf"]).exit_code == 0
    assert Path("stool.pdf").read_bytes().startswith(b"%PDF")
    for words, told in (
        (["stool", "-o", "again"], "again exists and is not empty"),
        (["none", "-o", "x"], "cannot read none"),
        (["stool", "-o", "x", "-f", "doc"], "doc"),
    ):
        done = runner.invoke(app, ["export", *words])
        assert done.exit_code == 2 and told in done.stderr and not Path("x").exists()
