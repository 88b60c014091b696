"""Files: what people write is read strictly, what we write appears whole or not at all.

In come YAML files and what is to be written; out come values with their lines, every fault at once, and files
and folders that outlive a crash.

Read `mending` (what to write instead of a wrong value), `yaml_file` (YAML 1.2 with the line of every field,
and all faults at once), `storage` (small durable steps), `field_docs` (what fields mean, from docstrings),
`staging` (a folder that takes its name only when it is complete), `scratch` (folders for the moment) and
`paths` (how paths are shown).
"""

from evomerge.files.staging import staged_folder
from evomerge.files.yaml_file import load_yaml, validate

__all__ = [
    "load_yaml",
    "staged_folder",
    "validate",
]
