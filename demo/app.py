"""The page: which components there are, and what each of them does in the visitor's room.

Knows Gradio, as the modules of its parts, `demo.look` and `demo.server` do. What is said and shown is decided in
`demo.room`.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from demo.chatbot import shown
from demo.controls import Controls, settings
from demo.history import browser_key, is_token, new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.messages import typed
from demo.panel import GuidePanel
from demo.program import State, answer
from demo.room import Room
from demo.rooms import SERVED, Rooms
from demo.seeds import seed_line
from demo.told import told
from demo.worker import ended_aside
from vlm.agent import ChatAgent

EXAMPLES = (
    "How do I assemble a blue stool with three legs?",
    "How do I assemble a red bench?",
    "Draw a green table.",
    "What can you do?",
)
MAX_WAITING_EVENTS = 128
FOLLOW = 0.5
"""Seconds between two looks at an answer that another tab asked for."""

BUSY = "busy "
Update = dict[Any, Any]
Stream = Generator[Update, None, None]
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


def build_app(model: ChatAgent | ModelMenu, root: Path, *, at_once: int = 1, longest_line: int = 16) -> gr.Blocks:
    """The demo over one agent, or over several.

    root: where conversations and served files lie, made when missing. at_once: answers that are drawn at the same time;
    longest_line: how many more may wait. Sets variables of this process, GRADIO_TEMP_DIR among them, since Gradio takes
    them from nowhere else; so one process serves one demo.
    """
    menu = model if isinstance(model, ModelMenu) else ModelMenu.of(model)
    root = root.absolute()
    rooms = Rooms(root, menu, Line(at_once, longest_line))
    os.environ["GRADIO_TEMP_DIR"] = str(root / SERVED)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # A table of the last 10,000 events, made anew at every event, of which only Gradio's monitoring tells: not needed.
    os.environ |= {"GRADIO_ANALYTICS_MAX_EVENTS": "100", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}
    return _Page(rooms, browser_key(root)).blocks


class _Page:
    """The components of the page, and their handlers."""

    def __init__(self, rooms: Rooms, secret: str) -> None:
        self.rooms = rooms
        with gr.Blocks(title="Illustrated guides", analytics_enabled=False, delete_cache=(3600, 86400)) as self.blocks:
            self.visitor = gr.BrowserState("", storage_key="hart-vlm-visitor", secret=secret)
            self.name = gr.State("")
            self.entered = gr.State("")  # Another token whenever a conversation is entered, `BUSY` before it if it is.
            self.controls = Controls(rooms.menu)
            gr.Markdown(
                "# Illustrated guides\nAsk how to assemble something, ask for a picture, or send one and ask about it.",
                elem_id="title",
            )
            self.chat = gr.Chatbot(
                label="Conversation", show_label=False, elem_id="chat", height="62vh", editable="user", layout="bubble",
                latex_delimiters=[], allow_tags=False, buttons=["copy"], feedback_options=None,
                allow_file_downloads=False, autoscroll=True, group_consecutive_messages=True,
                examples=[{"text": text} for text in EXAMPLES],
            )  # fmt: skip
            self.box = gr.MultimodalTextbox(
                label="Message", show_label=False, placeholder="How do I assemble …?", file_types=["image"],
                file_count="multiple", max_plain_text_length=1_000_000, autofocus=True, elem_id="box",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                interactive=False,  # Until the page knows whose it is.
            )  # fmt: skip
            self.status = gr.Markdown("", elem_id="status")
            self.panel = GuidePanel()
            self._wire()
            self._program()
        self.blocks.queue(default_concurrency_limit=None, max_size=MAX_WAITING_EVENTS)

    def _wire(self) -> None:
        controls, panel = self.controls, self.panel
        where: list[Any] = [self.visitor, self.name, controls.model]
        chosen = [*where, *controls.chosen]
        around: list[Any] = [self.box, self.status, controls.history, *panel.parts, *controls.of_models]
        page = [self.chat, *around]
        everything = [self.visitor, self.name, self.entered, *page]
        running: list[Any] = [
            event(handler, inputs, page, **PRIVATE)
            for event, handler, inputs in (
                (self.box.submit, self._say, [*chosen, self.box]),
                (self.chat.example_select, self._example, chosen),
                (self.chat.retry, self._retry, chosen),
                (self.chat.edit, self._edit_message, chosen),
                (panel.redraw.click, self._redraw_step, [*chosen, panel.step]),
                (panel.edit.click, self._edit_step, [*chosen, panel.step, panel.words]),
                (self.entered.change, self._follow, [*where, self.entered]),
            )
        ]
        for one in running:
            # Before the page goes elsewhere: what still came of an answer would be shown in another conversation. Each
            # by itself: a list is gone through while the server ends them, and would meet what was begun meanwhile.
            gr.on([self.chat.clear, controls.new.click, controls.history.input], None, cancels=[one])
        self.chat.undo(self._undo, where, page, **PRIVATE)
        self.box.stop(self._stop, where, None, queue=False, **PRIVATE)
        self.chat.clear(self._begin, where, everything, **PRIVATE)
        controls.new.click(self._begin, where, everything, **PRIVATE)
        controls.delete.click(self._delete, where, everything, **PRIVATE)
        controls.history.input(self._open, [self.visitor, controls.history, controls.model], everything, **PRIVATE)
        controls.model.input(self._switch, where, page, **PRIVATE)
        controls.reuse.click(self._last_seed, where, controls.seed, **PRIVATE)
        ticks = [*where, panel.known, panel.ticks]
        panel.ticks.input(self._tick, ticks, panel.known, trigger_mode="always_last", **PRIVATE)
        panel.step.input(self._step_words, [*where, panel.step], panel.words, **PRIVATE)
        self.blocks.load(self._load, [self.visitor], everything, **PRIVATE)

    def _program(self) -> None:
        def chat(
            message: str, picture: str = "", conversation: str = "", seed: int = -1
        ) -> Generator[State, None, None]:
            """Send a message, get words and pictures while they come; see docs/demo.md."""
            try:
                with closing(ended_aside(answer(self.rooms, message, picture, conversation, int(seed)))) as states:
                    yield from states
            except Exception as error:  # Told and logged; the server lives on.
                raise gr.Error(self._told(error), print_exception=False) from error

        gr.api(chat, api_name="chat", concurrency_limit=None)

    def _room(self, visitor: str, name: str, model: str) -> Room | None:
        """The room of a conversation; None where there is none, which is then told in a corner of the page."""
        try:
            return self.rooms.room(visitor, name, model)
        except Exception as error:  # Told and logged; the server lives on.
            self._warn(error)
            return None

    def _run(
        self, visitor: str, name: str, model: str, act: Callable[[Room], Generator[None, None, None]], step: int = 1
    ) -> Stream:
        """Show an action while it runs, then what stands around the chat. step: to be chosen in the panel.

        What cannot even begin is told in a corner of the page, and leaves in the box what is in it.
        """
        room = self._room(visitor, name, model)
        begun = False
        if room is not None:
            try:
                # Gradio closes on the loop that serves everybody.
                with closing(ended_aside(act(room))) as running:
                    for _ in running:
                        box = self._sent() if not begun else {}
                        begun = True
                        yield {self.chat: shown(room), **box}
            except Exception as error:  # As above.
                self._warn(error)
        if room is None or not begun:
            yield {self.chat: gr.skip()}
        else:
            yield {self.chat: shown(room), **self._around(room, visitor, name, model, step)}

    def _sent(self) -> Update:
        """The box while an answer is under way."""
        return {self.box: gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True)}

    def _say(self, visitor: str, name: str, model: str, *rest: Any) -> Stream:
        *chosen, box = rest
        pictures = [Path(path) for path in (box or {}).get("files") or []]
        text = (box or {}).get("text") or ""
        yield from self._run(visitor, name, model, lambda room: room.say(text, pictures, settings(*chosen)))

    def _example(self, data: gr.SelectData, visitor: str, name: str, model: str, *chosen: Any) -> Stream:
        text = str(data.value["text"])
        yield from self._run(visitor, name, model, lambda room: room.say(text, [], settings(*chosen)))

    def _retry(self, data: gr.RetryData, visitor: str, name: str, model: str, *chosen: Any) -> Stream:
        turn = _turn(data.index)
        yield from self._run(visitor, name, model, lambda room: room.retry(turn, settings(*chosen)))

    def _edit_message(self, data: gr.EditData, visitor: str, name: str, model: str, *chosen: Any) -> Stream:
        turn, text = _turn(data.index), typed(str(data.value))
        yield from self._run(visitor, name, model, lambda room: room.edit(turn, text, settings(*chosen)))

    def _redraw_step(self, visitor: str, name: str, model: str, *rest: Any) -> Stream:
        *chosen, step = rest
        at = int(step or 0)
        yield from self._run(visitor, name, model, lambda room: room.redraw(at, settings(*chosen)), at)

    def _edit_step(self, visitor: str, name: str, model: str, *rest: Any) -> Stream:
        *chosen, step, words = rest
        at = int(step or 0)
        yield from self._run(
            visitor, name, model, lambda room: room.redraw(at, settings(*chosen), text=words or ""), at
        )

    def _undo(self, visitor: str, name: str, model: str) -> Update:
        room = self._room(visitor, name, model)
        if room is None:
            return {self.chat: gr.skip()}
        try:
            room.undo()
        except Exception as error:  # As above.
            self._warn(error)
        return {self.chat: shown(room), **self._around(room, visitor, name, model)}

    def _stop(self, visitor: str, name: str, model: str) -> None:
        if room := self._room(visitor, name, model):
            room.stop()

    def _tick(self, visitor: str, name: str, model: str, known: list[str], done: list[str] | None) -> Any:
        """Keep what changed on this page, which may not know of another's ticks."""
        done = done or []
        room = self._room(visitor, name, model)
        try:
            for line in {*known} ^ {*done}:
                if room is not None:
                    room.tick(line, line in done)
        except Exception as error:  # As above.
            self._warn(error)
            return gr.skip()
        return done

    def _around(self, room: Room, visitor: str, name: str, model: str, step: int = 1) -> Update:
        """What stands around the chat, once nothing moves in it. model: the one that the menu shows."""
        found: Update = {}
        if not room.busy:
            files = [path for path in room.unsent_files if Path(path).is_file()]
            unsent: dict[str, Any] = {"value": {"text": room.unsent, "files": files}} if room.unsent or files else {}
            found[self.box] = gr.MultimodalTextbox(submit_btn=True, stop_btn=False, interactive=True, **unsent)
        try:
            found[self.controls.history] = self._listed(visitor, name)
            found[self.status] = seed_line(room.session)
            if room.model != model:
                found |= self.controls.of_model(room.model)
            found |= self.panel.of(room, step)
        except Exception as error:  # As above.
            self._warn(error)
        return found

    def _listed(self, visitor: str, name: str) -> gr.Radio:
        """What the visitor can come back to. name: of the conversation that is shown."""
        entries = [(entry.title, entry.name) for entry in self.rooms.entries(visitor)]
        return gr.Radio(entries, value=name if name in [entry[1] for entry in entries] else None)

    def _step_words(self, visitor: str, name: str, model: str, step: int) -> str:
        room = self._room(visitor, name, model)
        editable = None if room is None else room.guide()
        found = [] if editable is None else [one.text for one in editable.guide.steps if one.number == step]
        return found[0] if found else ""

    def _last_seed(self, visitor: str, name: str, model: str) -> str:
        room = self._room(visitor, name, model)
        seed = None if room is None else room.last_seed
        return "" if seed is None else str(seed)

    def _load(self, visitor: str) -> Stream:
        visitor = visitor if is_token(visitor) else new_token()
        yield {self.visitor: visitor}
        yield self._enter(visitor, self.rooms.enter(visitor), self.rooms.menu.names[0])

    def _follow(self, visitor: str, name: str, model: str, entered: str) -> Stream:
        """Go on showing a conversation that was entered while it is answered for another tab, and list another that
        was left in mid-drawing once it has ended."""
        yield {self.chat: gr.skip()}
        room = self._room(visitor, name, model)
        # As it was when it was shown: it may have ended since, with nobody to show the end.
        if room is not None and entered.startswith(BUSY):
            while room.busy:
                time.sleep(FOLLOW)
                yield {self.chat: shown(room)}
            yield {self.chat: shown(room), **self._around(room, visitor, name, model)}
        while {*self.rooms.busy(visitor)} - {name}:
            time.sleep(FOLLOW)
            yield {self.chat: gr.skip()}
        if room is not None:
            yield {self.controls.history: self._listed(visitor, name)}

    def _enter(self, visitor: str, name: str, model: str) -> Update:
        """Show a conversation as it stands, or a new one where it cannot be shown. model: that the menu shows."""
        try:
            room = self.rooms.room(visitor, name, model)
            busy = room.busy
            if not busy:
                room.refresh()
        except Exception as error:  # As above.
            self._warn(error)
            name = new_token()
            room, busy = self.rooms.room(visitor, name, self.rooms.menu.names[0]), False
        return {
            self.name: name,
            self.entered: (BUSY if busy else "") + new_token(),
            self.chat: shown(room),
            **self._around(room, visitor, name, model),
        }

    def _begin(self, visitor: str, _name: str, model: str) -> Update:
        return self._enter(visitor, new_token(), model)

    def _open(self, visitor: str, name: str, model: str) -> Update:
        return self._enter(visitor, name, model)

    def _delete(self, visitor: str, name: str, model: str) -> Update:
        try:
            self.rooms.delete(visitor, name)
        except Exception as error:  # As above.
            self._warn(error)
            return {self.name: name}
        return self._enter(visitor, self.rooms.enter(visitor), model)

    def _switch(self, visitor: str, name: str, model: str) -> Update:
        room = self._room(visitor, name, self.rooms.menu.names[0])
        if room is None:
            return {self.chat: gr.skip()}
        try:
            room.switch(model)
        except Exception as error:  # As above.
            self._warn(error)
            return {self.chat: shown(room), self.controls.model: room.model}
        around = self._around(room, visitor, name, room.model)
        return {self.chat: shown(room), **around, **self.controls.of_model(room.model)}

    def _warn(self, error: Exception) -> None:
        """Tell an error in a corner of the page, which would read it as HTML."""
        gr.Warning(html.escape(self._told(error)))

    def _told(self, error: Exception) -> str:
        return told(error, self.rooms.history.root, self.rooms.files.folder)


def _turn(index: int | tuple[int, int] | list[int]) -> int:
    """The turn of a message: each turn is two messages."""
    return (index if isinstance(index, int) else index[0]) // 2
