"""Conformance suites for parts written by others, to be run from their own tests.

In comes a part, or a function that makes one; each check is a plain function that raises AssertionError with
what was expected.

Read `optimizers` (what an optimizer must do), `problems` (what to try one on, without models),
`evaluators` and `merge_methods`.
"""
