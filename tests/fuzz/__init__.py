"""Every kind of file that is read, damaged at random: a right answer or a `UserError`, and nothing else.

`python -m tests.fuzz --minutes 10` or `--count 1000`; see docs/fuzz.md.
"""
