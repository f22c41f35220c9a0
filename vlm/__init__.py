"""A chat model whose answer is one stream of text and pictures.

Importing this package is cheap: torch and transformers load with the modules that need them.
"""

__version__ = "0.1.0"
