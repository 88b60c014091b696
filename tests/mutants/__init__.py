"""Mutants: small faults put into the code one by one, to see that a test notices each.

`mutants.toml` lists them, `mutant` reads the list, `run` runs tests against one of them, and
`python -m tests.mutants` does so for all.
"""
