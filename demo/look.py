"""How the page looks: fonts of the system, quiet colours, pictures in boxes that never jump.

Knows style sheets. Nothing here is fetched from another host. Gradio puts rules within @media below its innermost box;
those of boxes around it have theirs inside.
"""

from __future__ import annotations

import gradio as gr

CSS = """
footer { display: none !important; }
.gradio-container { width: 100%; max-width: 860px !important; margin: 0 auto !important; padding: 0.75rem !important;
  @media (max-width: 480px) { padding: 0.25rem !important; } }
.gradio-container > .main { width: 100%; max-width: none !important; padding: 1rem !important;
  @media (max-width: 480px) { padding: 0.5rem !important; } }
.gradio-container .sidebar-parent { padding-left: 0 !important; }
.gradio-container:has(#sidebar.open) {
  @media (min-width: 769px) and (max-width: 1520px) {
    margin-inline-start: 328px !important; width: calc(100% - 336px); } }
#title { @media (max-width: 768px) { padding-inline-start: 1.5rem; } }
#title h1 { font-size: 1.15rem; margin: 0.2rem 0 0; }
#title p { margin: 0 0 0.2rem; color: var(--body-text-color-subdued); font-size: 0.9rem; }
#chat { min-height: 320px; border-color: var(--border-color-primary); }
#chat .message .image-container, #chat .message .image-frame { width: min(256px, 54vw); height: auto; }
#chat .message img {
  display: block; width: min(256px, 54vw); max-width: 100%; height: auto; max-height: none; aspect-ratio: 1; margin: 0;
  object-fit: contain; background: #fff; border: 1px solid var(--border-color-primary); border-radius: 8px; }
#chat button[aria-label="Share"] { display: none; }
#chat .prose h1 { font-size: 1.2rem; } #chat .prose h2 { font-size: 1rem; }
#chat .prose em { color: var(--body-text-color-subdued); }
#status { min-height: 1.4em; } #status p { margin: 0; font-size: 0.85rem; color: var(--body-text-color-subdued); }
#chat .user-row + .message-buttons:not(:has(button:not([aria-label="Share"]))) { display: none; }
.label-wrap > span { text-align: start; }
#ticks .wrap { flex-direction: column; } #ticks label { width: 100%; }
:focus-visible { outline: 2px solid var(--input-border-color-focus) !important; outline-offset: 2px; }
#box textarea:focus-visible { outline: none !important; }
#box { border: 1px solid var(--input-border-color); }
#box:focus-within {
  border-color: var(--input-border-color-focus); box-shadow: 0 0 0 1px var(--input-border-color-focus); }
.toast-close { opacity: 1 !important; }
body * { @media (prefers-reduced-motion: reduce) { animation: none !important; transition: none !important; } }
"""


def theme() -> gr.themes.Base:
    """Light and dark, in the fonts that the system has. Contrast as WCAG AA asks: text 4.5, parts of controls 3."""
    found = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        font=[gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("monospace")],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_text_color="*neutral_600",
        block_label_text_color="*neutral_600",
        color_accent="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_active="*primary_700",
        link_text_color_active_dark="*primary_300",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
        input_border_width="1px",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_400",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_border_color_hover="*neutral_600",
        checkbox_border_color_hover_dark="*neutral_300",
        checkbox_label_background_fill="*neutral_100",
        checkbox_label_background_fill_dark="*neutral_800",
        checkbox_label_background_fill_hover="*neutral_200",
        checkbox_label_background_fill_hover_dark="*neutral_700",
    )
    # Not as the arguments above: Gradio would put quotes around names that browsers know only without them.
    found.font = "system-ui, -apple-system, 'Segoe UI', sans-serif"
    found.font_mono = "ui-monospace, Menlo, Consolas, monospace"
    return found
