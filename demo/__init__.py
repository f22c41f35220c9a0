"""The chat page: generation events shown as messages. Nothing outside this package imports Gradio."""
