"""The sidebar: conversations, models and adapters, and what can be chosen for an answer.

Knows Gradio's components and `Settings`. Does not know what happens when they are used.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo.menu import ModelMenu
from demo.settings import Settings
from vlm.errors import UserError
from vlm.sampling import GenerationOptions

NO_ADAPTER = "none"


class Controls:
    """Made inside a page. chosen: the components whose values `settings` takes, in its order; of_models: those that
    `of_model` fills."""

    def __init__(self, menu: ModelMenu) -> None:
        self.menu = menu
        usual = GenerationOptions()
        config = menu.agent(menu.names[0]).model.config
        any_adapter = any(menu.adapters(name) for name in menu.names)
        with gr.Sidebar(label="Conversations and settings", open=False, elem_id="sidebar"):
            self.new = gr.Button("New conversation", variant="primary")
            self.history = gr.Radio([], label="Conversations", elem_id="history")
            self.delete = gr.Button("Delete this conversation", size="sm")
            self.model = gr.Dropdown(
                list(menu.names), value=menu.names[0], label="Model", visible=len(menu.names) > 1, elem_id="model"
            )
            self.adapter = gr.Dropdown(
                [NO_ADAPTER, *menu.adapters(menu.names[0])], value=NO_ADAPTER, label="Adapter (drawing style)",
                info="For answers; a step that is drawn anew keeps its guide's.", visible=any_adapter,
                elem_id="adapter",
            )  # fmt: skip
            with gr.Accordion("Advanced", open=False):
                self.seed = gr.Textbox(
                    label="Seed", info="A whole number draws the same again; empty: chosen for you.", elem_id="seed"
                )
                self.reuse = gr.Button("Use the last answer's seed", size="sm")
                self.guidance = gr.Slider(
                    0, 6, value=float(config.guidance), step=0.25, label="Guidance", elem_id="guidance",
                    info="How strictly pictures follow the words; 0 is neutral.",
                )  # fmt: skip
                self.temperature = gr.Slider(
                    0, 1.5, value=usual.temperature, step=0.05, label="Temperature of words",
                    info="0 always takes the likeliest.",
                )  # fmt: skip
                self.code_temperature = gr.Slider(
                    0, 1.5, value=float(usual.code_temperature), step=0.05,  # type: ignore[arg-type]
                    label="Temperature of pictures", info="0 always takes the likeliest.",
                )  # fmt: skip
                self.residual_steps = gr.Slider(
                    2, 32, value=config.residual_steps, step=1, label="Steps of the last details",
                    info="More take longer.",
                )  # fmt: skip
        self.of_models: list[Any] = [self.model, self.adapter, self.guidance, self.residual_steps]
        self.chosen: list[Any] = [
            self.adapter, self.seed, self.guidance, self.temperature, self.code_temperature, self.residual_steps
        ]  # fmt: skip

    def of_model(self, name: str) -> dict[Any, Any]:
        """The menus and what is the model's own, after a change to the model `name`."""
        config = self.menu.agent(name).model.config
        return {
            self.model: name,
            self.adapter: gr.Dropdown([NO_ADAPTER, *self.menu.adapters(name)], value=NO_ADAPTER),
            self.guidance: float(config.guidance),
            self.residual_steps: config.residual_steps,
        }


def settings(
    adapter: str | None,
    seed: str,
    guidance: float,
    temperature: float,
    code_temperature: float,
    residual_steps: float,
) -> Settings:
    """What the controls say. Raises `UserError` on a seed that is none."""
    seed = (seed or "").strip()
    if seed and not (seed.isascii() and seed.isdigit() and len(seed) < 19):
        raise UserError(f"the seed {seed[:40]!r} is no whole number of at most 18 digits; empty it, or choose another")
    return Settings(
        seed=int(seed) if seed else None,
        guidance=guidance,
        temperature=temperature,
        code_temperature=code_temperature,
        residual_steps=int(residual_steps),
        adapter=None if adapter in (None, NO_ADAPTER) else adapter,
    )
