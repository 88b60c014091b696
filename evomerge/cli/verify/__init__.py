"""Verify: recompute every invariant of a campaign folder from what it holds.

In comes a folder, out come the contradictions in it. Read `invariants` first, then `order` (of events),
`results` (scores, failures, items), `replay` (genomes and asks), `races`, `exports` and `report`.
"""

from evomerge.cli.verify.invariants import examine, verify
from evomerge.cli.verify.report import Verification

__all__ = [
    "Verification",
    "examine",
    "verify",
]
