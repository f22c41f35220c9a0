"""Colours of the theme against what they stand on: contrast as WCAG 2.2 AA asks, light and dark."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")

from demo.look import CSS, theme

NAMED = {"white": "#ffffff", "black": "#000000"}
TEXT = (
    ("body_text_color", "body_background_fill"),
    ("body_text_color", "background_fill_secondary"),
    ("body_text_color", "block_background_fill"),
    ("body_text_color", "color_accent_soft"),
    ("body_text_color", "input_background_fill"),
    ("body_text_color_subdued", "body_background_fill"),
    ("body_text_color_subdued", "background_fill_secondary"),
    ("body_text_color_subdued", "block_background_fill"),
    ("body_text_color_subdued", "color_accent_soft"),
    ("block_title_text_color", "block_background_fill"),
    ("block_label_text_color", "block_label_background_fill"),
    ("block_info_text_color", "block_background_fill"),
    ("block_info_text_color", "background_fill_secondary"),
    ("accordion_text_color", "block_background_fill"),
    ("input_placeholder_color", "input_background_fill"),
    ("button_primary_text_color", "button_primary_background_fill"),
    ("button_primary_text_color_hover", "button_primary_background_fill_hover"),
    ("button_secondary_text_color", "button_secondary_background_fill"),
    ("button_secondary_text_color_hover", "button_secondary_background_fill_hover"),
    ("button_cancel_text_color", "button_cancel_background_fill"),
    ("checkbox_label_text_color", "checkbox_label_background_fill"),
    ("checkbox_label_text_color", "checkbox_label_background_fill_hover"),
    ("checkbox_label_text_color_selected", "checkbox_label_background_fill_selected"),
    ("link_text_color", "body_background_fill"),
    ("link_text_color", "block_background_fill"),
    ("link_text_color_hover", "block_background_fill"),
    ("link_text_color_visited", "block_background_fill"),
    ("error_text_color", "error_background_fill"),
    ("body_text_color", "background_fill_primary"),
    ("body_text_color", "input_background_fill_hover"),
    ("input_placeholder_color", "input_background_fill_hover"),
    ("body_text_color", "button_secondary_background_fill_hover"),
)
PARTS = (
    ("input_border_color_focus", "body_background_fill"),
    ("input_border_color_focus", "block_background_fill"),
    ("input_border_color_focus", "background_fill_secondary"),
    ("input_border_color_focus", "checkbox_label_background_fill"),
    ("input_border_color", "block_background_fill"),
    ("input_border_color", "body_background_fill"),
    ("checkbox_border_color", "checkbox_label_background_fill"),
    ("checkbox_border_color_hover", "checkbox_label_background_fill_hover"),
    ("checkbox_background_color_selected", "checkbox_label_background_fill_selected"),
    ("slider_color", "block_background_fill"),
    ("input_border_color_hover", "input_background_fill_hover"),
    ("block_label_text_color", "block_background_fill"),
    ("color_accent", "block_background_fill"),
    ("color_accent", "background_fill_secondary"),
)


def colour(name: str, dark: bool) -> str:
    """A value of the theme as #rrggbb, what it refers to followed; in the dark, what has no other value keeps it."""
    found = theme()
    for _ in range(20):
        value = (getattr(found, f"{name}_dark", None) if dark else None) or getattr(found, name)
        if not value.startswith("*"):
            return NAMED.get(value, value)
        name = value[1:]
    raise AssertionError(f"{name} refers to itself")


def luminance(value: str) -> float:
    assert re.fullmatch(r"#[0-9a-f]{6}", value), value
    parts = [int(value[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1, the same, to 21, black on white."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_as_the_standard_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("above", "below"), TEXT, ids=" on ".join)
def test_text_can_be_read(above: str, below: str, dark: bool):
    assert contrast(colour(above, dark), colour(below, dark)) >= 4.5


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("above", "below"), PARTS, ids=" on ".join)
def test_parts_of_controls_can_be_seen(above: str, below: str, dark: bool):
    assert contrast(colour(above, dark), colour(below, dark)) >= 3


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_mark_in_a_ticked_box_can_be_seen(dark: bool):
    assert "fill='white'" in theme().checkbox_check
    assert contrast("#ffffff", colour("checkbox_background_color_selected", dark)) >= 3


def test_the_style_sheet_names_no_colour_of_its_own():
    """But the paper that pictures lie on: everything else has a light and a dark value in the theme."""
    assert re.findall(r"#[0-9a-f]{3,8}\b(?=[^{}]*;)", CSS) == ["#fff"]


def test_the_button_that_closes_a_message_is_not_faded():
    """Gradio shows it at six tenths, on `background_fill_secondary` and in the dark on `background_fill_primary`."""
    assert re.search(r"(?m)^\.toast-close \{ opacity: 1 !important; \}$", CSS)


def test_the_focus_is_shown():
    (rule,) = re.findall(r"(?m)^:focus-visible \{([^}]*)\}", CSS)
    assert "outline: 2px solid var(--input-border-color-focus)" in rule
