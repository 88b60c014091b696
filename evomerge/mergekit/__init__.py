"""mergekit's files, spoken both ways: its YAML to a `Recipe` and back, and mergekit-evolve's genome files.

In comes a YAML file of mergekit, out goes a recipe with mergekit's semantics; or the other way round. Only
the format is spoken; mergekit itself is never imported (it runs as an oracle in a test environment of its
own). What its format can say and a recipe cannot is refused by name and line, never approximated.

Read `stated` (a recipe of ours or a YAML of mergekit), `document` and `form` (the YAML as data, all faults
at once), `read` (to a recipe) with `slices` (its layers), `models`, `methods`, `values`, `settings`,
`virtual`, `chat` and `templates`, and `ignored` (what mergekit itself would not notice); then `write` (from a
recipe) with `speech`; at last `genome` (mergekit-evolve's file to a campaign folder).
"""

from evomerge.mergekit.read import MergekitMerge, read_mergekit
from evomerge.mergekit.write import Written, mergekit_yaml

__all__ = ["MergekitMerge", "Written", "mergekit_yaml", "read_mergekit"]
