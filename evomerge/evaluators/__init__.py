"""Evaluators: a `Subject` to `Scores`, item by item, in fixed blocks."""
