"""Ledger: the append-only events of one campaign, the only truth about it.

In come events from the driver, each on disk before an optimizer sees what it says; out goes the
`History` that they fold to, and the per-item results that they refer to.

Read `events/` (what can be said), `record_lines` (checksums, damage), `records` (the file, its one writer),
`ledger` (records as events), `candidate` (with `packed_field`, `packed_genome`, `packed_scores`) and
`history` with `turn`, `sessions`, `bounds` and `failed_slopes` (what events amount to), `item_store` (results
by item), `lock` with `process` (who may write), `takeover` (from one that is gone) and `repair` (what is
sound of a damaged folder).
"""

from evomerge.ledger.candidate import Candidate, Evaluation
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import Ledger, read_events
from evomerge.ledger.repair import repair_folder

__all__ = [
    "Candidate",
    "Evaluation",
    "History",
    "ItemStore",
    "Ledger",
    "read_events",
    "repair_folder",
]
