"""Faults injected into real campaigns, one test per row: what can break is broken, and nothing may be lost.

`harness` holds what a row is and how many times it is injected, `bed` the campaigns that are hurt and how
they are judged afterwards, `soak` runs the same rows with larger counts and prints one table. Row F7
(power loss) is no campaign's: `tests/durability.py` is the disk that forgets, used by the tests of each file.
"""
