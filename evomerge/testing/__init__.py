"""Conformance suites for parts written by others, to be run from their own tests.

`evomerge.testing.optimizers` holds what an optimizer must do, `evomerge.testing.evaluators` what an
evaluator must, `evomerge.testing.merge_methods` what a merge method must; each check is a plain function
that raises AssertionError with what was expected.
"""
