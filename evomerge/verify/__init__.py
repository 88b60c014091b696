"""Verify: recompute every invariant of a campaign folder from what it holds.

In comes a folder, out come the contradictions in it. Read `invariants` first, then `replay` (genomes and
asks), `races`, `exports` and `report`.
"""

from evomerge.verify.invariants import examine, verify
from evomerge.verify.report import Verification

__all__ = [
    "Verification",
    "examine",
    "verify",
]
