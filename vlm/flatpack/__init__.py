"""The flatpack world: furniture whose every assembly picture can be checked.

Knows furniture, drawing and language templates; knows nothing of models or tokens.
"""
