"""Turn: what the schedule of a search did, one step after another, for its replay."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.ledger.packed_field import DIGEST, packed


@packed(state=DIGEST)
@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of an optimizer: an ask, a tell, a batch of slopes, or the begin of a refinement.

    Attributes:
        ids: the candidates asked for or told; empty for the other two.
        state: after a tell, the digest of the optimizer's state.
        slopes: number of the batch of slopes.
        refine: number of the refinement that begins.
        asker: the refinement that asked or was told; None for the campaign's own optimizer.
    """

    ids: tuple[str, ...]
    state: str | None = None
    slopes: int | None = None
    refine: int | None = None
    asker: int | None = None
