"""evomerge: multi-objective evolutionary search over merges of language models."""

__version__ = "0.1.0"
