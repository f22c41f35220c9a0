"""A guide as Markdown (CommonMark), its pictures as relative links, everything the model wrote escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlm.export.text import clean
from vlm.guide import Guide

_INLINE = re.compile(r"([\\`*_\[\]<>&|~!#])")
_LINE_START = re.compile(r"^(\d+)([.)])|^([-+=])")


def to_markdown(guide: Guide) -> str:
    """The guide as one Markdown text, with a newline at its end."""
    return "\n".join(_lines(guide)) + "\n"


def escape(text: str) -> str:
    """`text` as Markdown that shows it as it is: on one line, no markup, no HTML."""
    line = _INLINE.sub(r"\\\1", clean(text))
    return _LINE_START.sub(lambda found: f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}", line)


def _lines(guide: Guide) -> Iterator[str]:
    yield f"# {escape(guide.title)}"
    if guide.description.strip():
        yield from ("", escape(guide.description))
    if guide.parts:
        yield from ("", "## Parts", "")
        yield from (f"- {part.count} x {escape(part.name)}" for part in guide.parts)
    if guide.tools:
        yield from ("", "## Tools", "")
        yield from (
            f"- {tool.count} x {escape(tool.name)}" if tool.count else f"- {escape(tool.name)}"
            for tool in guide.tools
        )
    yield from ("", "## Steps")
    for step in guide.steps:
        yield from ("", f"### {step.number}. {escape(step.text)}")
        for warning in step.warnings:
            yield from ("", f"> **Warning:** {escape(warning)}")
        yield from ("", f"![{escape(step.alt)}](<{step.image}>)")
    if guide.closing.strip():
        yield from ("", escape(guide.closing))
    yield from ("", "---", "")
    yield f"Prompt: {escape(guide.prompt)}  "
    yield f"Seed {guide.seed}, model {escape(guide.model)}"
