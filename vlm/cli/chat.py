"""`vlm chat`: a conversation in the terminal, saved after every turn."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm.cli.options import Adapter, Bundle, Device, Guidance, Precision, Temperature, adapted_agent_for, chosen
from vlm.cli.reporting import Debug, one_line, reporting
from vlm.errors import GuideError, UserError

if TYPE_CHECKING:
    from vlm.chat import ChatSession
    from vlm.events import Events

MAX_LINE = 1 << 20
HELP = """\
/picture PATH      send a picture with the next message
/redraw N [SEED]   draw step N of the last guide anew
/edit N TEXT       give step N another text, and draw it anew
/guide PLACE       save the last guide: a folder, or a .pdf, .html or .zip file
/retry             answer the last message again, with another seed
/undo              take back the last message and its answer
/seed N            draw the next answer with this seed
/quit              end; so does Ctrl-D"""


def chat(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Conversation to go on with, or to begin; by default a new one in out/."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="An instruction before all messages.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the next answer; the ones after it take the next seeds.", min=0, max=2**63 - 1),
    ] = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    adapter: Adapter = None,
    bundle: Bundle = None,
    device: Device = "cpu",
    dtype: Precision = None,
    debug: Debug = False,
) -> None:
    """Talk with the model: ask for guides and pictures, show it pictures, change what it drew.

    Answers go to standard output, all else to standard error; where the terminal can show pictures, it does. The
    conversation is saved after every turn, pictures included. Exit codes: 0 at the end of the input; 2 bad input; 130
    interrupted, the answer so far kept.
    """
    with reporting(debug):
        from vlm.files import check_output_folder
        from vlm.saved import CONVERSATION_FILE

        place = folder or Path("out") / time.strftime("chat-%Y%m%d-%H%M%S")
        known = (place / CONVERSATION_FILE).exists()
        if known:
            # Saved where it is, not in the place of a link to it.
            place = place.resolve()
            if system is not None:
                raise UserError(f"{place} holds a conversation, whose --system cannot change; begin another")
        else:
            check_output_folder(place, marker=CONVERSATION_FILE, advice="name another folder")
        agent, name, _ = adapted_agent_for(bundle, device, dtype, seed or 0, adapter)
        session = agent.load_session(place) if known else agent.session(system=system)
        talk = Chat(session, place, chosen(guidance=guidance, temperature=temperature), name)
        # A conversation that goes on has seeds of its own.
        talk.seed = seed if known else None
        talk.run()


class Chat:
    """The loop: a line in, an answer out, the conversation saved."""

    def __init__(
        self, session: ChatSession, folder: Path, settings: dict[str, Any], adapter: str | None = None
    ) -> None:
        self.session = session
        self.folder = folder
        self.settings = settings
        self.adapter = adapter
        self.seed: int | None = None
        self.saved = False
        self.pictures: list[Path] = []
        self.guides: set[str] = set()
        self.interactive = sys.stdin.isatty()

    def run(self) -> None:
        """Until the input ends. At a terminal a bad line is told and the talk goes on; else it ends the program."""
        if self.interactive:
            self._note("Ask for a guide or a picture. /help shows what else there is; Ctrl-D ends.")
        try:
            for line in self._lines():
                if line.strip() == "/quit":
                    break
                self._try(line.strip())
        finally:
            if self.saved:
                self._note(f"Saved in {self.folder}")

    def _try(self, line: str) -> None:
        try:
            self._take(line)
        except (UserError, GuideError, ValueError, RuntimeError) as error:
            if not self.interactive:
                raise
            self._note(one_line(str(error)))

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if not line.startswith("/"):
            if line or self.pictures:
                self._say(line)
            return
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._note(HELP),
            "/picture": self._attach,
            "/redraw": self._redraw,
            "/edit": self._edit,
            "/guide": self._save_guide,
            "/retry": self._retry,
            "/undo": self._undo,
            "/seed": self._choose_seed,
        }
        if word not in commands:
            raise UserError(f"{word} is no command; /help shows those there are")
        commands[word](rest.strip())

    def _say(self, text: str) -> None:
        message = [*self.pictures, text]
        events = self.session.reply(message, adapter=self.adapter, **self.settings, **self._once())
        self.pictures = []
        self._answer(events)

    def _answer(self, running: Events) -> None:
        """Show an answer and save the conversation, the answer so far even when it is interrupted."""
        from vlm.cli.progress import AnswerPrinter
        from vlm.events import ContextTrimmed, ImageDone, LoadedFromMessages

        printer = AnswerPrinter()
        try:
            with closing(running) as events:
                for event in events:
                    printer(event)
                    match event:
                        case ImageDone(image=image) if sys.stdout.isatty():
                            from vlm.cli.terminal import shown

                            typer.echo(shown(image, os.environ), nl=False)
                        case ContextTrimmed(left=left):
                            numbers = ", ".join(str(number + 1) for number in left)
                            self._note(f"[the conversation is long: the model no longer sees turn {numbers}]")
                        case LoadedFromMessages(saved=saved):
                            self._note(f"[another model, {saved}, wrote this conversation: it was read anew]")
        finally:
            if self.session.turns:
                self._save()

    def _attach(self, path: str) -> None:
        from vlm.message import check_message

        # Opened now, so that a wrong path, or one picture too many, is told now.
        check_message([*self.pictures, Path(path)])
        self.pictures.append(Path(path))

    def _redraw(self, words: str) -> None:
        step, _, seed = words.partition(" ")
        self._draw_step(_whole(step, "/redraw N [SEED]"), _whole(seed, "/redraw N [SEED]") if seed.strip() else None)

    def _edit(self, words: str) -> None:
        step, _, text = words.partition(" ")
        self._draw_step(_whole(step, "/edit N TEXT"), None, text)

    def _draw_step(self, step: int, seed: int | None, text: str | None = None) -> None:
        from vlm.guide_edits import redraw_step

        self._answer(redraw_step(self.session, self._guide(), step, text=text, seed=seed))

    def _save_guide(self, place: str) -> None:
        from vlm.guide_edits import EditableGuide

        if not place:
            raise UserError("/guide needs a place: a folder, or a .pdf, .html or .zip file")
        # What this talk wrote it may write again: a guide whose step was redrawn goes to the same place.
        guide = EditableGuide(self.session, self._guide())
        self._note(f"Wrote {guide.save(place, force=place in self.guides, advice='give /guide another place')}")
        self.guides.add(place)

    def _retry(self, _: str) -> None:
        self._needs_a_turn()
        self._answer(self.session.retry(**self._once()))

    def _undo(self, _: str) -> None:
        self._needs_a_turn()
        self.session.undo()
        self._save()

    def _save(self) -> None:
        from vlm.conversations import save_conversation

        self.saved = False
        save_conversation(self.session, self.folder)
        self.saved = True

    def _choose_seed(self, seed: str) -> None:
        self.seed = _whole(seed, "/seed N")

    def _needs_a_turn(self) -> None:
        if not self.session.turns:
            raise UserError("there is no message yet; write one first")

    def _guide(self) -> int:
        turn = self.session.current_guide()
        if turn is None:
            raise UserError("there is no guide yet; ask for one first")
        return turn

    def _once(self) -> dict[str, Any]:
        """The seed of the next answer, if one was chosen."""
        seed, self.seed = self.seed, None
        return {} if seed is None else {"seed": seed}

    def _lines(self) -> Iterator[str]:
        if isinstance(sys.stdin, io.TextIOWrapper):
            # Bytes that are no UTF-8 stay visible as surrogates, and the check of the message names them.
            sys.stdin.reconfigure(errors="surrogateescape")
        while True:
            if self.interactive:
                try:
                    yield input("> ")
                except EOFError:
                    self._note("")
                    return
            elif line := sys.stdin.readline(MAX_LINE):
                yield line
            else:
                return

    def _note(self, text: str) -> None:
        typer.echo(text, err=True)


def _whole(word: str, usage: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise UserError(f"{word!r} is no whole number of at most 18 digits, expected {usage}")
    return int(word)
