"""HM3: a policy that walks paths by preference, and what it learns."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from evomerge.errors import ConfigError
from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.hm3 import Hm3
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.path_policy import PathPolicy, _density, _repeatable, advantages
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import Hm3Settings
from evomerge.testing.problems import minimised
from tests.search_space.test_layer_path import SCALE, space

WEIGHT = {"low": 0.0, "high": 1.0, "outside_layers": "shared"}


def target_outcome(paths):
    """How far a path is from each of two, layer by layer; the two differ in one half of the depth."""
    numbers = {choice: number for number, choice in enumerate(paths.choices)}
    wanted = [
        [numbers["math" if layer < 3 else "merged", layer] for layer in range(6)],
        [numbers["code" if layer >= 3 else "merged", layer] for layer in range(6)],
    ]

    def outcome(genome):
        steps = [number for number, _ in paths.steps(genome[-len(paths) :])]
        wrong = [
            sum(a != b for a, b in zip(steps, each, strict=False)) + abs(len(steps) - 6)
            for each in wanted
        ]
        return Complete((wrong[0] / 6, wrong[1] / 6), (0.0, 0.0))

    return outcome


def told(optimizer, outcome, evaluations):
    """Asked genomes with their values, in order."""
    asked, values = [], []
    while len(asked) < evaluations:
        batch = optimizer.ask()
        outcomes = [outcome(genome) for genome in batch]
        optimizer.tell(outcomes)
        asked += batch
        values += [each.values for each in outcomes]
    return asked, np.array(values)


def test_it_learns_and_beats_chance():
    found = space(6, sources=["merged", "math", "code"], max_layers=8)
    outcome = target_outcome(found.paths)
    made = {
        kind: make_optimizer(kind, found.genes, minimised(2), population=20, seed=2)
        for kind in ("hm3", "random")
    }
    values = {kind: told(optimizer, outcome, 160)[1] for kind, optimizer in made.items()}
    assert hypervolume(values["hm3"], 1.0) > hypervolume(values["random"], 1.0) + 0.2
    means = values["hm3"].mean(axis=1)
    assert means[-60:].mean() < means[:60].mean() - 0.02


def test_preferences_lead_to_different_paths():
    """One objective wants paths of `math`, the other of `code`."""
    found = space(3, sources=["math", "code"], outer="base", max_layers=4)
    paths = found.paths
    policy = PathPolicy(paths, 2, 4, Hm3Settings(rate=0.02, epochs=8))
    rng = np.random.default_rng(1)

    def share(walk):
        return np.mean([paths.choices[number][0] == "math" for number, _ in walk.steps])

    for _ in range(25):
        walks = [policy.walk(rng.dirichlet([0.5, 0.5]), rng) for _ in range(16)]
        policy.learn(walks, [w.preference @ [share(w), 1.0 - share(w)] for w in walks])
    shares = [
        np.mean([share(policy.walk(np.array(preference), rng)) for _ in range(30)])
        for preference in ([1.0, 0.0], [0.0, 1.0])
    ]
    assert shares[0] > shares[1] + 0.4


def test_a_policy_that_knows_nothing_walks_the_layers_in_order():
    paths = space(5, sources=["code", "merged"], scale=SCALE).paths
    policy = PathPolicy(paths, 2, 1, Hm3Settings(explore=0.0))
    with torch.no_grad():
        policy.spread.fill_(-20.0)
    assert paths.outer == "merged"
    walk = policy.walk(np.array([0.5, 0.5]), np.random.default_rng(1))
    assert walk.steps == paths.identity("merged")
    assert len(walk.protos) == len(walk.values) == 6


def test_walks_keep_the_limits():
    paths = space(3, sources=["merged"], min_layers=2, max_layers=4, max_repeats=2, scale=SCALE).paths
    policy = PathPolicy(paths, 2, 1, Hm3Settings(explore=0.5, nearest=9))
    with torch.no_grad():
        policy.spread.fill_(0.5)
    rng = np.random.default_rng(2)
    walks = [policy.walk(np.array([0.5, 0.5]), rng) for _ in range(100)]
    assert all(paths.is_spelled(walk.steps) for walk in walks)
    assert {len(walk.steps) for walk in walks} == {2, 3, 4}


def test_a_scaling_network_has_a_say_where_layers_do_not_follow():
    """A layer that follows in its source has scale 1; elsewhere scales are walked and learnt."""
    paths = space(4, sources=["merged", "math"], scale=SCALE).paths
    policy = PathPolicy(paths, 2, 1, Hm3Settings(alignment="network", rate=0.02))
    with torch.no_grad():
        policy.spread[:-1] = 0.3  # jumps
        policy.spread[-1] = -1.0
    rng = np.random.default_rng(4)
    before = policy.scaling[0].weight.detach().clone()
    followed, apart = [], []
    for _ in range(4):
        walks = [policy.walk(np.array([0.5, 0.5]), rng) for _ in range(16)]
        for walk in walks:
            assert len(walk.protos[0]) == len(policy.spread)
            last = ("merged", -1)
            for number, scale in walk.steps:
                here = paths.choices[number]
                (followed if here == (last[0], last[1] + 1) else apart).append(scale)
                last = here
        # Nothing moved the policy yet: densities are those of the walk.
        states, parts, taken = policy._unrolled(walks)
        again = policy._log_density(
            torch.tensor(np.concatenate([walk.protos for walk in walks])),
            policy._mean(states, parts), parts, taken,
        )  # fmt: skip
        torch.testing.assert_close(
            again.detach(), torch.tensor(np.concatenate([walk.densities for walk in walks]))
        )
        policy.learn(walks, [-abs(np.log([s for _, s in walk.steps]).mean() - 0.5) for walk in walks])
    assert set(followed) == {1.0}
    assert len(set(apart)) > 2
    assert not torch.equal(before, policy.scaling[0].weight)


def test_advantages_are_the_sums_they_stand_for():
    rng = np.random.default_rng(3)
    paid, values = rng.normal(size=7), rng.normal(size=7)
    after = np.append(values[1:], 0.0)
    errors = paid + 0.9 * after - values
    expected = [sum((0.9 * 0.8) ** (i - t) * errors[i] for i in range(t, 7)) for t in range(7)]
    assert advantages(paid, values, 0.9, 0.8) == pytest.approx(np.array(expected))
    # With a trace of 1 they are what was paid from there on, less what was expected.
    rest = [sum(0.9 ** (i - t) * paid[i] for i in range(t, 7)) for t in range(7)]
    assert advantages(paid, values, 0.9, 1.0) == pytest.approx(np.array(rest) - values)


def test_densities_are_gaussian():
    proto, mean, spread = torch.randn(3, 4), torch.randn(3, 4), torch.randn(4)
    expected = torch.distributions.Normal(mean, spread.exp()).log_prob(proto)
    torch.testing.assert_close(_density(proto, mean, spread), expected)


def test_the_preference_weighs_what_is_best_at_each_objective():
    found = space(3, weight=WEIGHT, sources=["merged"], min_layers=3, max_layers=3)
    given = [
        found.uniform(weights) for weights in ({"math": 1.0, "code": 0.0}, {"math": 0.0, "code": 1.0})
    ]
    best = [Complete((0.0, 1.0), (0.0, 0.0)), Complete((1.0, 0.0), (0.0, 0.0))]
    hm3 = Hm3(found.genes, 2, 1, given, Hm3Settings(), focus=(1.0, 0.0))
    asked = Asked(
        found.genes, minimised(2), tuple(zip(given, best, strict=True)), 12,
        np.random.default_rng(1), Hm3Settings(),
    )  # fmt: skip
    points = hm3(asked)
    assert points[:, :2].sum(axis=1) == pytest.approx(np.ones(len(points)))
    assert points[:, 0].min() >= 0.75  # preferences keep near the focus
    assert points[:, 0].max() < 1.0
    for row, descent in zip(points, hm3.descents, strict=True):
        assert descent.origin.how in ("policy", "edited")
        assert descent.origin.preference == pytest.approx(tuple(row[:2]), abs=1e-3)


def test_fixed_preferences_lie_on_a_lattice():
    found = space(3, weight=WEIGHT, sources=["merged"], min_layers=3, max_layers=3)
    settings = Hm3Settings(preferences=6, placed="lattice")
    hm3 = Hm3(found.genes, 3, 1, [], settings)
    rng = np.random.default_rng(1)
    hm3(Asked(found.genes, minimised(3), (), 40, rng, settings))
    seen = {descent.origin.preference for descent in hm3.descents}
    corners = {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}
    assert seen <= corners | {(0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)}
    assert len(seen) > 3
    drawn = Hm3(found.genes, 3, 1, [], Hm3Settings(preferences=6))
    drawn(Asked(found.genes, minimised(3), (), 40, np.random.default_rng(1), settings))
    assert not {descent.origin.preference for descent in drawn.descents} & seen


@pytest.mark.parametrize(
    ("schedule", "alignment"), [("generational", "action"), ("steady_state", "network")]
)
def test_it_is_decided_by_seed_and_outcomes(schedule, alignment):
    found = space(3, weight=WEIGHT, sources=["merged", "math"], max_layers=4, scale=SCALE)
    histories = []
    for seed in (5, 5, 6):
        optimizer = make_optimizer(
            "hm3", found.genes, minimised(2), population=8, seed=seed, schedule=schedule,
            initial=[found.uniform({"math": 0.5, "code": 0.5})],
            settings=Hm3Settings(
                episodes=8, preferences=5, reward="spread", scalarise="tchebycheff", alignment=alignment
            ),
        )  # fmt: skip
        asked = []
        while len(asked) < 32:
            batch = optimizer.ask()
            results = [
                Complete((sum(genome), len(asked) / (1 + genome[0])), (0.0,)) for genome in batch
            ]
            if len(asked) == 16:
                results[0] = Failed("nonfinite_weights")
            if len(asked) == 20:
                results[-1] = Raced(1, (0.5, 0.5))
            optimizer.tell(results)
            asked += batch
        assert len(set(asked)) == len(asked)
        assert all(found.snap(genome) == genome for genome in asked)
        histories.append((asked, optimizer.state_digest()))
    assert histories[0] == histories[1] != histories[2]


def test_a_scaling_network_needs_scales():
    with pytest.raises(
        ConfigError, match=r"E119.*alignment: a scaling network needs paths with scales"
    ):
        make_optimizer(
            "hm3", space(3).genes, minimised(2), population=8, seed=1,
            settings=Hm3Settings(alignment="network"),
        )  # fmt: skip


def test_a_focus_on_paths_is_hm3s():
    found = space(3)
    with pytest.raises(ConfigError, match=r"E151.*optimizer\.focus: `auto` cannot focus.*take hm3"):
        make_optimizer("auto", found.genes, minimised(2), population=8, seed=1, focus=(0.5, 0.5))


@pytest.mark.parametrize("section", [{"form": "indicator"}, None])
def test_it_needs_paths_that_can_be_walked(section):
    found = space(3, weight=WEIGHT, **(section or {}))
    genes = found.genes if section else found.merging.genes
    with pytest.raises(ConfigError, match=r"E119.*optimizer\.kind: hm3 walks paths of layers; give"):
        make_optimizer("hm3", genes, minimised(2), population=8, seed=1)


def test_policies_of_threads_side_by_side_draw_what_they_draw_alone():
    """The random numbers of torch are the whole process's; campaigns of a study ask in threads."""

    def draws(seed, between=lambda: None):
        with _repeatable(seed):
            first = torch.rand(3)
            between()
            return torch.cat([first, torch.rand(3)]).tolist()

    other = []
    thread = threading.Thread(target=lambda: other.append(draws(2)))

    def begins():
        thread.start()
        thread.join(0.2)

    alone = draws(1), draws(2)
    mine = draws(1, begins)
    thread.join()
    assert (mine, other[0]) == alone
