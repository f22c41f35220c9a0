"""The web demo: a chat in the browser where pictures grow as they are drawn. Gradio is imported nowhere else."""
