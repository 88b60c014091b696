"""What an evaluation's scores come back as: what they were, and in how much memory."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from copy import deepcopy

import pytest

from evomerge.ledger.item_store import ItemReference
from evomerge.ledger.packed_scores import packed_metrics, packed_numbers, packed_references
from evomerge.objectives.scores import Metric


def reference(name: str, number: int = 0) -> ItemReference:
    return ItemReference(f"{name}.bin", 2**40 + number, 517, hashlib.sha256(name.encode()).hexdigest())


METRICS = {"b.acc": Metric(1 / 3, 0.1, 2**40, -0.0), "a.acc": Metric(-0.0, 1e-300, 0)}
ITEMS = {"b": reference("b"), "a": reference("a")}


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (packed_metrics, METRICS),
        (packed_metrics, {}),
        (packed_references, ITEMS),
        (packed_references, {}),
        (packed_references, {"a": ItemReference("a.bin", 0, 1, "AB" * 32)}),
        (packed_references, {"a": ItemReference("a.bin", 2**70, 1, "ab" * 32)}),
        (packed_numbers, {"merge": 0.1, "evaluate": 1e-300}),
        (packed_numbers, {}),
    ],
)
def test_it_is_the_mapping_that_it_was(packed, plain):
    found = packed(plain)
    assert dict(found) == plain
    assert found == plain
    assert plain == found
    assert list(map(repr, found.items())) == list(map(repr, plain.items()))
    assert len(found) == len(plain)
    assert all(name in found for name in plain)
    assert found.get("none") is None
    with pytest.raises(KeyError, match="none"):
        found["none"]
    assert deepcopy(found) == pickle.loads(pickle.dumps(found)) == plain


def test_an_evaluation_takes_less_than_a_kilobyte():
    names = [f"e{number}" for number in range(3)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = []
    for number in range(200):
        metrics = {f"{name}.acc": Metric(number / 7, 0.1, 500) for name in names}
        items = {name: reference(name, number) for name in names}
        kept.append((packed_metrics(metrics), packed_references(items), packed_numbers({"a": 1.0})))
    metrics = items = None
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / len(kept) < 1000
