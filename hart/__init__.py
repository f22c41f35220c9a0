"""HART's image tokens: a picture as discrete codes per scale plus a continuous residual.

Knows: scale schedules, the multi-scale residual quantiser, autoencoders, the residual diffusion head, their
losses. Does not know: text, conversations, towers, products. Source: HART, Tang et al. 2024 (arXiv
2410.10812).

Import from the submodules (``hart.tokenizer``, ``hart.tokens`` ...); importing the package itself loads
nothing.
"""
