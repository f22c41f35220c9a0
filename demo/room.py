"""A room: one conversation as its visitor sees it, what may be done in it, and where it is saved.

Knows sessions, events and messages. Knows no web framework: every action is a generator that yields whenever there is
something new to show, and `messages` says what.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from demo.files import ServedFiles, read_upload
from demo.line import Line, ordinal
from demo.memory import give_back
from demo.menu import ModelMenu
from demo.messages import Answer, Picture, content, literal, model_words
from demo.seeds import last_seed
from demo.settings import Settings
from demo.shown import ShownTurn, sent, shown_turns
from demo.ticks import Ticks
from demo.told import told
from demo.worker import in_thread
from vlm.chat import ChatSession, Turn
from vlm.conversations import load_conversation, save_conversation
from vlm.errors import UserError
from vlm.events import Events
from vlm.export import FORMATS
from vlm.guide_edits import EditableGuide, redraw_step
from vlm.message import SentPicture, check_count, check_message
from vlm.saved import CONVERSATION_FILE, read_saved
from vlm.stream import Conversation

WAIT = 0.5
"""Seconds between two looks at the waiting line."""

Running = Generator[None, None, None]
Begin = Callable[[threading.Event], Events]


class Room:
    """One conversation, saved in `folder` after every action. One action at a time, from any thread.

    A saved one is opened with the model that wrote it, where the menu has it; a new one, or one of a model that has
    gone, with `model`, by default the menu's first. on_saved: called whenever it has been saved. Raises `UserError` if
    model or conversation cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        files: ServedFiles,
        menu: ModelMenu,
        line: Line,
        model: str | None = None,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.files = files
        self.menu = menu
        self.line = line
        self.note = ""
        self.unsent = ""
        self.unsent_files: list[str] = []
        self.deleted = False
        self._on_saved = on_saved
        self.turns: list[ShownTurn] = []
        self._busy = threading.Lock()
        self._cancel = threading.Event()
        self._made: list[str] = []
        self._guide: tuple[Conversation, EditableGuide] | None = None
        self._downloads: tuple[Conversation, Path] | None = None
        saved = folder / CONVERSATION_FILE
        author = menu.of_fingerprint(read_saved(saved).model) if saved.is_file() else None
        self.model = author or model or menu.names[0]
        self.session = self._session(self.model)
        self._ticks = Ticks(folder)
        self.refresh()

    @property
    def busy(self) -> bool:
        """Is an action under way?"""
        return self._busy.locked()

    @property
    def guide_turn(self) -> int | None:
        """Number of the turn that holds the current guide; None while there is none or an answer is under way."""
        return None if self.busy else self.session.current_guide()

    @property
    def last_seed(self) -> int | None:
        """The seed of what was drawn last: an answer, or a step of one anew."""
        return last_seed(self.session)

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as messages: a role, and content as `demo.messages.content` makes it."""
        found: list[dict[str, Any]] = []
        for turn in self.turns:
            answer = content(turn.parts, model_words)
            if turn.note:
                answer = [part for part in answer if part != {"text": ""}] + [{"text": f"*{literal(turn.note)}*"}]
            found.append({"role": "user", "content": content(turn.sent, literal)})
            found.append({"role": "assistant", "content": answer})
        if self.note:
            found.append({"role": "assistant", "content": [{"text": f"*{literal(self.note)}*"}]})
        return found

    def say(self, text: str, pictures: Sequence[Path | bytes], settings: Settings) -> Running:
        """Send a message and have it answered.

        pictures: files or their contents, checked here; files are removed once an answer is in the conversation, until
        then they are among `unsent_files`.
        """

        def begin() -> Running:
            check_count(len(pictures))
            contents = [read_upload(one) if isinstance(one, Path) else one for one in pictures]
            return self._say(len(self.session.turns), [*contents, text], settings)

        return self._safely(begin, text, [str(one) for one in pictures if isinstance(one, Path)])

    def edit(self, turn: int, text: str, settings: Settings) -> Running:
        """Put another text in the place of an earlier message; what came after it goes."""

        def begin() -> Running:
            photos = [part for part in self._turn(turn).message if isinstance(part, SentPicture)]
            return self._say(turn, [*photos, text], settings)

        return self._safely(begin, text)

    def retry(self, turn: int, settings: Settings) -> Running:
        """Answer an earlier message again, with the next seed unless one was chosen; what came after it goes."""

        def begin() -> Running:
            earlier = self._turn(turn)
            seed = (earlier.options.seed + 1) % 2**63 if settings.seed is None else settings.seed
            return self._say(turn, earlier.message, replace(settings, seed=seed))

        return self._safely(begin)

    def redraw(self, step: int, settings: Settings, text: str | None = None) -> Running:
        """Draw one step of the current guide anew, from another text if one is given; every other step stays.

        With the settings given, but the adapter of the guide, so that its pictures stay of one kind.
        """

        def begin() -> Running:
            number = self.session.current_guide()
            if number is None:
                raise UserError("there is no guide yet; ask for one first")
            shown = self.turns[number]
            before = list(shown.parts)
            answer = Answer(self._keep, before)

            def events(cancel: threading.Event) -> Events:
                return redraw_step(self.session, number, step, text=text, cancel=cancel, **settings.drawing())

            try:
                yield from self._answer(answer, shown, events)
            finally:
                if answer.reason != "stop":
                    shown.parts = before

        return self._safely(begin)

    def undo(self) -> str:
        """Take back the last message and its answer; returns its text. Text and pictures are then `unsent`.

        Raises `UserError` while an answer is running.
        """
        with self._alone():
            if not self.session.turns:
                return ""
            message = self.session.turns[-1].message
            self.unsent_files = [self.files.keep_png(part.png) for part in message if isinstance(part, SentPicture)]
            self.unsent = " ".join(part for part in message if isinstance(part, str))
            self.session.undo()
            self.note = ""
            self.refresh()
            self._save()
        return self.unsent

    def stop(self) -> None:
        """End the answer under way, at its next event."""
        self._cancel.set()

    def switch(self, model: str) -> None:
        """Go on with another model. Raises `UserError` if it cannot be loaded; all then stays as it was."""
        with self._alone():
            session = self._session(model)
            turns = shown_turns(session, self.turns, self.files)
            self.session.release()
            self.session, self.turns, self.model = session, turns, model

    def guide(self) -> EditableGuide | None:
        """The current guide, if there is one."""
        number = self.guide_turn
        if number is None:
            return None
        stream = self.session.turns[number].answer
        # Made once for each state of the guide: its pictures are decoded for it.
        if self._guide is None or self._guide[0] is not stream:
            self._guide = stream, EditableGuide(self.session, number)
        return self._guide[1]

    def ticked(self) -> list[str]:
        """The steps of the current guide that are ticked off, as `demo.ticks.lines` has them."""
        editable = self.guide()
        return [] if editable is None else self._ticks.of(editable)

    def tick(self, line: str, done: bool) -> None:
        """This step of the guide that is shown is done, or is not. Raises `UserError` if that cannot be kept."""
        editable = self._guide[1] if self.busy and self._guide is not None else self.guide()
        if editable is None or self.deleted:
            return
        self._ticks.put(editable, line, done)
        # What is built from is in use, and is what a reload comes back to.
        with suppress(OSError):
            os.utime(self.folder / CONVERSATION_FILE)

    def downloads(self) -> dict[str, Path]:
        """The current guide in every format, by the format's name; written once for each state of the guide."""
        editable = self.guide()
        if editable is None:
            return {}
        stream = self.session.turns[editable.turn].answer
        if self._downloads is None or self._downloads[0] is not stream or not self._downloads[1].is_dir():
            folder = self.files.new_folder()
            editable.save(folder, formats=FORMATS)
            if self._downloads is not None:
                self.files.drop(str(self._downloads[1] / "guide.json"))
            self._downloads = stream, folder
        return {kind: self._downloads[1] / f"guide.{kind}" for kind in FORMATS}

    def refresh(self) -> None:
        """Make what is shown out of the session; pictures that are shown already, and are still there, stay."""
        self.turns = shown_turns(self.session, self.turns, self.files)

    def _session(self, model: str) -> ChatSession:
        """The conversation as it is saved, or an empty one, with a model of the menu."""
        backbone = self.menu.backbone(model)
        saved = (self.folder / CONVERSATION_FILE).is_file()
        return load_conversation(backbone, self.folder) if saved else self.menu.agent(model).session()

    def _keep(self, image: Image.Image) -> str:
        path = self.files.keep(image)
        self._made.append(path)
        return path

    def _turn(self, number: int) -> Turn:
        if not 0 <= number < len(self.session.turns):
            raise UserError("this message is no longer in the conversation; reload the page")
        return self.session.turns[number]

    def _say(self, turn: int, message: Sequence[Any], settings: Settings) -> Running:
        """Answer a message in the place of turn `turn` and all after it, which come back if nothing comes of it."""
        parts = check_message(message, self.session.backbone.processor.background)
        kept = list(self.session.turns), list(self.session.actions), list(self.turns)
        shown = ShownTurn(sent(parts, self.files), message=parts)
        self.turns = [*self.turns[:turn], shown]
        begun = False

        def events(cancel: threading.Event) -> Events:
            nonlocal begun
            while len(self.session.turns) > turn:
                self.session.undo()
            running = self.session.reply(parts, adapter=settings.adapter, cancel=cancel, **settings.changes())
            begun = True
            return running

        try:
            yield from self._answer(Answer(self._keep), shown, events)
        finally:
            if not begun or len(self.session.turns) <= turn:
                self.session.turns, self.session.actions, self.turns = kept
            else:
                for path in self.unsent_files:
                    Path(path).unlink(missing_ok=True)
                self.unsent, self.unsent_files = "", []

    def _answer(self, answer: Answer, shown: ShownTurn, begin: Begin) -> Running:
        """Wait in line, run, show."""
        shown.note = ""
        yield
        with self.line.join() as ticket:
            while not ticket.wait(WAIT):
                if self._cancel.is_set():
                    return
                self.note = f"Busy: you are {ordinal(ticket.position)} in line."
                yield
            self.note = ""
            try:
                with closing(in_thread(begin(self._cancel), self._cancel)) as batches:
                    for batch in batches:
                        for event in batch:
                            answer.take(event)
                        shown.parts = list(answer.parts)
                        self.note = " ".join(answer.notes)
                        yield
            finally:
                # Whoever stops may not come back: the cache is freed, and made anew if they do.
                if answer.reason != "stop":
                    self.session.release()

    def _safely(self, begin: Callable[[], Running], text: str = "", files: Sequence[str] = ()) -> Running:
        """Run an action alone in this room; what goes wrong is said in the chat, and the room stays usable.

        text, files: what the visitor sends, `unsent` until an answer to it is in the conversation.
        """
        with self._alone():
            self._cancel = threading.Event()
            self.note, self.unsent, self.unsent_files = "", text, list(files)
            shown = {part.path for turn in self.turns for part in turn.parts if isinstance(part, Picture)}
            for path in self._made:
                if path not in shown:
                    self.files.drop(path)
            self._made = [path for path in self._made if path in shown]
            try:
                with closing(begin()) as running:
                    yield from running
            except Exception as error:  # Said to the visitor, logged for the host; the server lives on.
                self.note = f"Not done: {self._told(error)}."
            finally:
                for keep in (self.refresh, self._save):
                    try:
                        keep()
                    except Exception as error:  # As above.
                        self.note = f"Not kept: {self._told(error)}."
                give_back()
        yield

    def _told(self, error: Exception) -> str:
        return told(error, self.folder, self.files.folder)

    def _save(self) -> None:
        if self.deleted or not (self.session.turns or self.folder.exists()):
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_conversation(self.session, self.folder)
        self._ticks.keep(len(self.session.turns))
        self._on_saved()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise UserError("an answer is still under way in this conversation; stop it, or wait for it")
        try:
            yield
        finally:
            self._busy.release()
