"""Guides as files: HTML, PDF, Markdown with pictures, JSON and a zip of them all. Knows no model."""

from vlm.export.archive import to_zip
from vlm.export.folder import DEFAULT_FORMATS, FORMATS, parse_formats, save_guide
from vlm.export.html import to_html
from vlm.export.markdown import to_markdown
from vlm.export.pdf import to_pdf

__all__ = [
    "DEFAULT_FORMATS", "FORMATS", "parse_formats", "save_guide", "to_html", "to_markdown", "to_pdf", "to_zip",
]  # fmt: skip
