"""The panel below a guide: its steps to tick off and to change, its downloads.

Knows Gradio's components and what a room has to show in them. Does not know what happens when they are used.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo.room import Room
from demo.ticks import lines
from vlm.export import FORMATS

LABELS = {"html": "HTML", "pdf": "PDF", "md": "Markdown", "json": "JSON", "zip": "ZIP of all"}


class GuidePanel:
    """Made inside a page. parts: all that `of` fills."""

    def __init__(self) -> None:
        with gr.Accordion("Your guide: tick off, change, download", open=False, visible=False) as self.frame:
            self.ticks = gr.CheckboxGroup([], label="Done so far", elem_id="ticks")
            with gr.Row():
                self.step = gr.Dropdown([], label="Step", elem_id="step", min_width=110, scale=1)
                self.words = gr.Textbox(label="Its text", lines=1, max_lines=4, elem_id="words", min_width=220, scale=4)
            with gr.Row():
                self.redraw = gr.Button("Redraw this step", elem_id="redraw")
                self.edit = gr.Button("Draw it from this text", elem_id="edit")
            with gr.Row():
                self.downloads = {
                    kind: gr.DownloadButton(LABELS[kind], size="sm", min_width=90, elem_id=f"download-{kind}")
                    for kind in FORMATS
                }
            gr.Markdown('Half-way through? Send a photo of it and ask "What comes next?".')
        self.known = gr.State([])  # The ticks as this page was told them.
        self.parts: list[Any] = [self.frame, self.known, self.ticks, self.step, self.words, *self.downloads.values()]

    def of(self, room: Room, step: int) -> dict[Any, Any]:
        """The panel of the room's current guide, hidden without one. step: to be chosen, if it is there."""
        editable = room.guide()
        if editable is None:
            return {self.frame: gr.Accordion(visible=False)}
        steps = editable.guide.steps
        at = step if 1 <= step <= len(steps) else 1
        ticked = room.ticked()
        return {
            self.frame: gr.Accordion(visible=True),
            self.ticks: gr.CheckboxGroup(lines(editable.guide), value=ticked),
            self.known: ticked,
            self.step: gr.Dropdown([(f"Step {one.number}", one.number) for one in steps], value=at),
            self.words: steps[at - 1].text,
            **{self.downloads[kind]: str(path) for kind, path in room.downloads().items()},
        }
