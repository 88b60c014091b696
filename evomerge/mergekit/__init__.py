"""mergekit's files, spoken both ways: its YAML to a `Recipe` and back, and mergekit-evolve's genome files.

Only the format is spoken; mergekit itself is never imported (it runs as an oracle in a test environment of
its own). What its format can say and a recipe cannot is refused by name and line, never approximated.
"""

from evomerge.mergekit.read import MergekitMerge, read_mergekit
from evomerge.mergekit.write import Written, mergekit_yaml

__all__ = ["MergekitMerge", "Written", "mergekit_yaml", "read_mergekit"]
