"""The map of a learned front: where its points lie."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.optimizers import front_map
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.slopes import SlopeGround
from evomerge.search_space import Gene

ITEMS = 50


@pytest.mark.parametrize("objectives", [2, 3, 5])
def test_points_of_a_learned_map_lie_evenly(objectives):
    """Shares of preferences are, but for a factor, the places moved a little inside."""
    genes = tuple(
        Gene(f"weight.{k}.layers.0", 0.0, 1.5, 1e-3, "weight", str(k), ("layers.0",))
        for k in range(objectives)
    )
    gains = {str(k): tuple(np.eye(objectives)[k].tolist()) for k in range(objectives)}
    ground = SlopeGround((ITEMS,) * objectives, gains)
    power = front_map.curve(objectives)
    found = front_map.FrontMap(
        Grid(genes), front_map.starting_table(genes, ground, None), np.ones(objectives, bool), power
    )
    places = np.random.default_rng(0).dirichlet(np.ones(objectives), size=20)
    preferences = found.evenly(places)
    assert preferences.sum(axis=1) == pytest.approx(np.ones(20))
    ratio = found.points(preferences) / ((1 - front_map.EDGE) * places + front_map.EDGE / objectives)
    assert np.ptp(ratio, axis=1) == pytest.approx(np.zeros(20), abs=1e-12)
    middle = np.full((1, objectives), 1.0 / objectives)
    assert found.points(found.evenly(middle)) == pytest.approx(min(0.8, 2.1 / objectives))
