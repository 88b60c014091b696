"""What an evaluation's scores come back as: what they were, and in how much memory."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from copy import deepcopy

import pytest

from evomerge.ledger.candidate import evaluation_of
from evomerge.ledger.events import EvaluatedEvent
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.scores import Metric

KEY = hashlib.sha256(b"key").hexdigest()


def reference(name: str, number: int = 0) -> ItemReference:
    return ItemReference(f"{name}.bin", 2**40 + number, 517, hashlib.sha256(name.encode()).hexdigest())


def event(metrics=None, items=None, seconds=None, statistics=None, key=KEY):
    return EvaluatedEvent(
        id="c00000",
        recipe="r",
        key=key,
        metrics=metrics or {},
        items=items or {},
        seconds=seconds or {},
        statistics=statistics or {},
        same_as="c00001",
    )


METRICS = {"b.acc": Metric(1 / 3, 0.1, 2**40, -0.0), "a.acc": Metric(-0.0, 1e-300, 0)}
ITEMS = {"b": reference("b"), "a": reference("a")}
SECONDS = {"merge": 0.1, "evaluate": 1e-300}
STATISTICS = {"l1": 3.5}


@pytest.mark.parametrize(
    "said",
    [
        event(METRICS, ITEMS, SECONDS, STATISTICS),
        event(),
        event(METRICS, seconds=SECONDS),
        event(statistics=STATISTICS, items=ITEMS, key="no digest"),
        event(METRICS, {"a": ItemReference("a.bin", 0, 1, "AB" * 32)}),
        event(METRICS, {"a": ItemReference("a.bin", 2**70, 1, "ab" * 32)}, SECONDS),
    ],
)
def test_an_evaluation_is_what_the_event_said(said):
    found = evaluation_of(said)
    assert (found.split, found.key, found.same_as) == (said.split, said.key, said.same_as)
    for copy in (found, deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert copy == found
        for name in ("metrics", "items", "seconds", "statistics"):
            packed, plain = getattr(copy, name), getattr(said, name)
            assert packed == plain
            assert plain == packed
            assert list(map(repr, packed.items())) == list(map(repr, plain.items()))
            assert len(packed) == len(plain)
            assert all(key in packed for key in plain)
            assert packed.get("none") is None
            assert deepcopy(packed) == pickle.loads(pickle.dumps(packed)) == plain
            with pytest.raises(KeyError, match="none"):
                packed["none"]


def test_an_evaluation_takes_half_a_kilobyte():
    names = [f"e{number}" for number in range(3)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = []
    for number in range(200):
        metrics = {f"{name}.acc": Metric(number / 7, 0.1, 500) for name in names}
        items = {name: reference(name, number) for name in names}
        kept.append(evaluation_of(event(metrics, items, {"a": 1.0})))
    metrics = items = None
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / len(kept) < 550
