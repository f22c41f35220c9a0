"""Guides as files: a folder of JSON, Markdown, self-contained HTML and PNGs. Knows no model."""

from vlm.export.folder import save_guide
from vlm.export.html import to_html
from vlm.export.markdown import to_markdown

__all__ = ["save_guide", "to_html", "to_markdown"]
