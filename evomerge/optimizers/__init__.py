"""Optimizers: ask for candidates, be told their outcomes, nothing more."""
