"""The page: which components there are, and what each of them does in the visitor's room.

Knows Gradio, as the modules of its parts, `demo.look` and `demo.server` do. What is said and shown is decided in
`demo.room`.
"""

from __future__ import annotations

import html
import os
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.chatbot import ComponentMessage
from gradio.data_classes import FileData

from demo.controls import Controls, settings
from demo.history import is_token, new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.messages import typed
from demo.panel import GuidePanel
from demo.program import answer
from demo.room import Room
from demo.rooms import SERVED, Rooms
from vlm.agent import ChatAgent
from vlm.errors import GuideError, UserError
from vlm.pictures import MAX_BYTES

EXAMPLES = (
    "How do I assemble a blue stool with three legs?",
    "How do I assemble a red bench?",
    "Draw a green table.",
    "What can you do?",
)
MAX_WAITING_EVENTS = 128
FOLLOW = 0.5
"""Seconds between two looks at an answer that another tab asked for."""

Update = dict[Any, Any]
Stream = Generator[Update, None, None]
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


def build_app(model: ChatAgent | ModelMenu, root: Path, *, at_once: int = 1, longest_line: int = 16) -> gr.Blocks:
    """The demo over one agent, or over several.

    root: where conversations and served files lie, made when missing. at_once: answers that are drawn at the same time;
    longest_line: how many more may wait. Sets GRADIO_TEMP_DIR and GRADIO_ANALYTICS_ENABLED of this process, since
    Gradio takes them from nowhere else; so one process serves one demo.
    """
    menu = model if isinstance(model, ModelMenu) else ModelMenu.of(model)
    root = root.absolute()
    rooms = Rooms(root, menu, Line(at_once, longest_line))
    os.environ["GRADIO_TEMP_DIR"] = str(root / SERVED)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return _Page(rooms, _secret(root)).blocks


class _Page:
    """The components of the page, and their handlers."""

    def __init__(self, rooms: Rooms, secret: str) -> None:
        self.rooms = rooms
        with gr.Blocks(title="Illustrated guides", analytics_enabled=False, delete_cache=(3600, 86400)) as self.blocks:
            self.visitor = gr.BrowserState("", storage_key="hart-vlm-visitor", secret=secret)
            self.name = gr.State("")
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
        live = [self.chat, self.box]
        rest: list[Any] = [self.box, self.status, controls.history, *panel.parts]
        menus = [controls.model, controls.adapter]
        everything = [self.visitor, self.name, self.chat, *menus, *rest]
        done = {"fn": self._finish, "inputs": [*where, panel.step], "outputs": rest, **PRIVATE}
        for event, handler, inputs in (
            (self.box.submit, self._say, [*chosen, self.box]),
            (self.chat.example_select, self._example, chosen),
            (self.chat.retry, self._retry, chosen),
            (self.chat.edit, self._edit_message, chosen),
            (panel.redraw.click, self._redraw_step, [*chosen, panel.step]),
            (panel.edit.click, self._edit_step, [*chosen, panel.step, panel.words]),
        ):
            event(handler, inputs, live, **PRIVATE).then(**done)
        self.chat.undo(self._undo, where, live, **PRIVATE).then(**done)
        self.box.stop(self._stop, where, None, queue=False, **PRIVATE)
        self.chat.clear(self._begin, where, everything, **PRIVATE)
        controls.new.click(self._begin, where, everything, **PRIVATE)
        controls.delete.click(self._delete, where, everything, **PRIVATE)
        controls.history.input(self._follow, [self.visitor, controls.history, controls.model], everything, **PRIVATE)
        controls.model.input(self._switch, where, [self.chat, *menus], **PRIVATE).then(**done)
        controls.reuse.click(self._last_seed, where, controls.seed, **PRIVATE)
        panel.ticks.input(self._tick, [*where, panel.ticks], None, **PRIVATE)
        panel.step.input(self._step_words, [*where, panel.step], panel.words, **PRIVATE)
        self.blocks.load(self._load, [self.visitor], everything, **PRIVATE)

    def _program(self) -> None:
        def chat(message: str, picture: str = "", conversation: str = "", seed: int = -1) -> dict[str, Any]:
            """Send a message, get words and pictures; see docs/demo.md."""
            try:
                return answer(self.rooms, message, picture, conversation, int(seed))
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        gr.api(chat, api_name="chat", concurrency_limit=None)

    def _room(self, visitor: str, name: str, model: str) -> Room:
        return self.rooms.room(visitor, name, model)

    def _run(self, visitor: str, name: str, model: str, act: Callable[[Room], Generator[None, None, None]]) -> Stream:
        """Show an action while it runs. What it cannot do is told in a corner of the page."""
        try:
            room = self._room(visitor, name, model)
            with closing(act(room)) as running:
                box: Update = {self.box: gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True)}
                for _ in running:
                    yield {self.chat: _shown(room), **box}
                    box = {}
        except UserError as error:
            _warn(error)
            yield {self.chat: gr.skip()}

    def _say(self, visitor: str, name: str, model: str, *rest: Any) -> Stream:
        *chosen, box = rest
        pictures = [_taken(path) for path in (box or {}).get("files") or []]
        text = (box or {}).get("text") or ""
        yield from self._run(visitor, name, model, lambda room: room.say(text, pictures, settings(*chosen)))

    def _example(self, visitor: str, name: str, model: str, *chosen: Any, data: gr.SelectData) -> Stream:
        text = str(data.value["text"])
        yield from self._run(visitor, name, model, lambda room: room.say(text, [], settings(*chosen)))

    def _retry(self, visitor: str, name: str, model: str, *chosen: Any, data: gr.RetryData) -> Stream:
        turn = _turn(data.index)
        yield from self._run(visitor, name, model, lambda room: room.retry(turn, settings(*chosen)))

    def _edit_message(self, visitor: str, name: str, model: str, *chosen: Any, data: gr.EditData) -> Stream:
        turn, text = _turn(data.index), typed(str(data.value))
        yield from self._run(visitor, name, model, lambda room: room.edit(turn, text, settings(*chosen)))

    def _redraw_step(self, visitor: str, name: str, model: str, *rest: Any) -> Stream:
        *chosen, step = rest
        yield from self._run(visitor, name, model, lambda room: room.redraw(int(step or 0), settings(*chosen)))

    def _edit_step(self, visitor: str, name: str, model: str, *rest: Any) -> Stream:
        *chosen, step, words = rest
        yield from self._run(
            visitor, name, model, lambda room: room.redraw(int(step or 0), settings(*chosen), text=words or "")
        )

    def _undo(self, visitor: str, name: str, model: str) -> Update:
        try:
            room = self._room(visitor, name, model)
            text = room.undo()
        except UserError as error:
            _warn(error)
            return {self.chat: gr.skip()}
        room.unsent = text
        return {self.chat: _shown(room)}

    def _stop(self, visitor: str, name: str, model: str) -> None:
        self._room(visitor, name, model).stop()

    def _tick(self, visitor: str, name: str, model: str, done: list[str] | None) -> None:
        try:
            self._room(visitor, name, model).tick(done or [])
        except UserError as error:
            _warn(error)

    def _finish(self, visitor: str, name: str, model: str, step: int | None) -> Update:
        """What stands around the chat, once nothing moves in it."""
        try:
            room = self._room(visitor, name, model)
            unsent: dict[str, Any] = {"value": {"text": room.unsent, "files": []}} if room.unsent else {}
            box = gr.MultimodalTextbox(submit_btn=True, stop_btn=False, interactive=True, **unsent)
            found: Update = {} if room.busy else {self.box: box}
            entries = [(entry.title, entry.name) for entry in self.rooms.entries(visitor)]
            here = name if name in [entry[1] for entry in entries] else None
            found[self.controls.history] = gr.Radio(entries, value=here)
            found[self.status] = "" if room.last_seed is None else f"Seed of the last answer: {room.last_seed}"
            return found | self.panel.of(room, step)
        except (UserError, GuideError) as error:
            _warn(error)
            return {self.box: gr.MultimodalTextbox(submit_btn=True, stop_btn=False)}

    def _step_words(self, visitor: str, name: str, model: str, step: int) -> str:
        editable = self._room(visitor, name, model).guide()
        found = [] if editable is None else [one.text for one in editable.guide.steps if one.number == step]
        return found[0] if found else ""

    def _last_seed(self, visitor: str, name: str, model: str) -> str:
        seed = self._room(visitor, name, model).last_seed
        return "" if seed is None else str(seed)

    def _load(self, visitor: str) -> Stream:
        visitor = visitor if is_token(visitor) else new_token()
        yield {self.visitor: visitor}
        yield from self._follow(visitor, self.rooms.enter(visitor), self.rooms.menu.names[0])

    def _follow(self, visitor: str, name: str, model: str) -> Stream:
        """Show a conversation, and go on showing it while another tab has it answered."""
        found = self._enter(visitor, name, model)
        yield found
        room = self._room(visitor, found[self.name], found[self.controls.model])
        if room.busy:
            while room.busy:
                time.sleep(FOLLOW)
                yield {self.chat: _shown(room)}
            yield self._enter(visitor, name, model)

    def _enter(self, visitor: str, name: str, model: str) -> Update:
        """Show a conversation as it stands."""
        try:
            room = self._room(visitor, name, model)
            if not room.busy:
                room.refresh()
        except UserError as error:
            _warn(error)
            name = new_token()
            room = self._room(visitor, name, self.rooms.menu.names[0])
        return {
            self.name: name,
            self.chat: _shown(room),
            **self.controls.of_model(room.model),
            **self._finish(visitor, name, room.model, None),
        }

    def _begin(self, visitor: str, _name: str, model: str) -> Update:
        return self._enter(visitor, new_token(), model)

    def _delete(self, visitor: str, name: str, model: str) -> Update:
        try:
            self.rooms.delete(visitor, name)
        except UserError as error:
            _warn(error)
            return {self.name: name}
        return self._enter(visitor, self.rooms.enter(visitor), model)

    def _switch(self, visitor: str, name: str, model: str) -> Update:
        room = self._room(visitor, name, model)
        try:
            room.switch(model)
        except UserError as error:
            _warn(error)
        return {self.chat: _shown(room), **self.controls.of_model(room.model)}


def _shown(room: Room) -> list[dict[str, Any]]:
    """The messages of a room as the chat component takes them."""
    return [
        {
            "role": message["role"],
            "content": [
                _picture(part["path"], part["alt_text"]) if "path" in part else {"type": "text", "text": part["text"]}
                for part in message["content"]
            ],
        }
        for message in room.messages()
    ]


def _picture(path: str, alt: str) -> ComponentMessage:
    """A picture in a message. As a plain file the chat component would show it without its alternative text; made of a
    `gr.Image`, each repaint of a long conversation would make all of them anew."""
    file = FileData(path=path, mime_type="image/png", orig_name=Path(path).name).model_dump()
    return ComponentMessage(component="image", value=file, constructor_args={}, props={"alt_text": alt})


def _warn(error: Exception) -> None:
    """Tell an error in a corner of the page, which would read it as HTML."""
    gr.Warning(html.escape(str(error)))


def _turn(index: int | tuple[int, int] | list[int]) -> int:
    """The turn of a message: each turn is two messages."""
    return (index if isinstance(index, int) else index[0]) // 2


def _taken(path: str) -> bytes:
    """The content of an upload, whose file is then removed; one byte more than is allowed of a larger one."""
    file = Path(path)
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    file.unlink(missing_ok=True)
    return content


def _secret(root: Path) -> str:
    """The key under which browsers store who they are; the same after a restart."""
    path = root / "secret"
    if not path.is_file():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16), encoding="ascii")
    return path.read_text(encoding="ascii")
