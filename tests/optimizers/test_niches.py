"""M2N2 and kinship: who mates with whom, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.cli.verify.invariants import verify
from evomerge.objectives.objective import Complete, Objective
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.kinship import KinshipMerging
from evomerge.optimizers.m2n2 import M2n2, archive, attraction, fitness, scored
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import KinshipSettings, M2n2Settings
from evomerge.run.driver import run
from evomerge.search_space.similarity import kinship
from evomerge.testing.optimizers import OBJECTIVES, example_genes
from tests.tiny_models import write_campaign

TASKS = (Objective("a.acc", "maximize"), Objective("b.acc", "maximize"))
SCORES = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


def outcome(*items):
    arrays = tuple(np.array(each, dtype=np.float64) for each in items)
    return Complete(tuple(-float(each.mean()) for each in arrays), (0.0,) * len(arrays), items=arrays)


def asked(told, genes, settings, count=4, objectives=TASKS, pending=()):
    rng = np.random.default_rng(1)
    return Asked(tuple(genes), objectives, tuple(told), count, rng, settings, pending)


def test_items_are_shared_out_over_those_that_answer_them():
    shares = np.full(4, 0.25)
    assert fitness(SCORES, shares).tolist() == pytest.approx([0.25, 0.25, 0.25])
    # Who answers what only one other does is worth as much as two who answer the same.
    assert attraction(SCORES, shares, 0).tolist() == pytest.approx([0.0, 0.0, 0.25])
    # The twin that came first leaves, not the one with a niche of its own.
    assert archive(SCORES, shares, 2).tolist() in ([1, 2], [0, 2])


def test_models_with_the_same_scores_are_worth_the_same_to_the_last_bit():
    scores = np.tile(np.random.default_rng(1).random(50), (7, 1))
    assert len(set(fitness(scores, np.full(50, 0.02)).tolist())) == 1
    # So of equal ones the first leaves.
    assert archive(scores, np.full(50, 0.02), 6).tolist() == [1, 2, 3, 4, 5, 6]


def test_objectives_count_alike_however_many_items_they_have():
    genes = example_genes(2)
    told = [
        (tuple(g.low for g in genes), outcome([1, 0, 0, 0], [0, 1])),
        (tuple(g.high for g in genes), outcome([0, 1, 1, 1], [1, 1])),
    ]
    _, scores, shares = scored(asked(told, genes, M2n2Settings()))
    assert scores.shape == (2, 6)
    assert shares.tolist() == [0.25] * 4 + [0.5] * 2
    plain = [(genome, Complete(o.values, o.errors)) for genome, o in told]
    _, scores, shares = scored(asked(plain, genes, M2n2Settings()))
    assert scores.shape == (2, 2)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_children_lie_between_complementary_parents_and_change_over_at_one_depth():
    genes = example_genes(4)
    low, high = (tuple(float(getattr(g, end)) for g in genes) for end in ("low", "high"))
    told = [(low, outcome([1, 0], [1, 0])), (high, outcome([0, 1], [0, 1]))]
    points = M2n2(genes)(asked(told, genes, M2n2Settings(mutation=0.0), count=40))
    share = (points - np.array(low)) / (np.array(high) - np.array(low))
    depth = [round(float(g.places[0] == "head") or 0) for g in genes]
    assert len(depth) == len(genes)
    for row in share:
        values = {round(float(each), 9) for each in row}
        assert len(values) <= 2
        assert len(values) == 1 or sum(values) == pytest.approx(1.0)
    assert sum(len({round(float(each), 9) for each in row}) == 2 for row in share) > 20


def test_kinship_of_vectors():
    first = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    second = np.array([[2.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    cosine = kinship(first, second, "cosine")
    assert cosine[0].tolist() == pytest.approx([1.0, 0.0, 2 / 6**0.5])
    assert cosine[1].tolist() == [0.0, 0.0, 0.0]
    assert kinship(first[:1], second, "pearson")[0, :2].tolist() == pytest.approx([1.0, -1.0])
    assert kinship(first[:1], second, "euclid")[0].tolist() == pytest.approx(
        [-(2**0.5), -(3**0.5), -1.0]
    )


def test_the_best_are_merged_in_pairs_and_the_best_with_the_least_akin():
    genes = example_genes(1)[:3]
    rows = [(1.0, 0.0, 0.0), (0.8, 0.1, 0.0), (0.6, 0.0, 0.1), (0.0, 1.0, 0.0)]
    told = [(row, Complete((0.1 * n, 0.1 * n), (0.0, 0.0))) for n, row in enumerate(rows)]
    merging = KinshipMerging(genes, [])
    settings = KinshipSettings(top=2, explore=0.5)
    points = merging(asked(told, genes, settings, count=2, objectives=OBJECTIVES))
    assert points.tolist() == [pytest.approx((0.5, 0.5, 0.0)), pytest.approx((0.9, 0.05, 0.0))]
    # What was asked is not asked again.
    again = merging(asked(told, genes, settings, 2, OBJECTIVES, [tuple(p) for p in points.tolist()]))
    assert not {tuple(p) for p in again.tolist()} & {tuple(p) for p in points.tolist()}


def test_single_candidates_explore_in_their_share_too():
    genes = example_genes(1)[:3]
    rows = [(1.0, 0.0, 0.0), (0.8, 0.1, 0.0), (0.6, 0.0, 0.1), (0.0, 1.0, 0.0)]
    told = [(row, Complete((0.1 * n, 0.1 * n), (0.0, 0.0))) for n, row in enumerate(rows)]
    given = asked(told, genes, KinshipSettings(top=2, explore=0.25), 1, OBJECTIVES)
    merging = KinshipMerging(genes, [])
    points = [tuple(np.round(merging(given)[0], 9).tolist()) for _ in range(40)]
    assert set(points) == {(0.5, 0.5, 0.0), (0.9, 0.05, 0.0)}
    assert 3 <= points.count((0.5, 0.5, 0.0)) <= 20


@pytest.mark.parametrize("kind", ["m2n2", "kinship"])
def test_it_finds_more_than_it_began_with(kind):
    genes = example_genes(2)[:-1]
    ends = [tuple(1.0 if g.input == name else 0.0 for g in genes) for name in ("math", "code")]

    def judge(genome):
        """Two tasks of twenty items: an expert's item wants its weights, and not too much of the other's."""
        found = []
        for name in ("math", "code"):
            own = np.mean([v for g, v in zip(genes, genome, strict=True) if g.input == name])
            other = np.mean([v for g, v in zip(genes, genome, strict=True) if g.input != name])
            found.append((own - 0.3 * other > np.linspace(0.05, 0.95, 20)).astype(float))
        return outcome(*found)

    optimizer = make_optimizer(kind, genes, TASKS, population=8, seed=3, initial=ends)
    values = []
    for _ in range(8):
        batch = optimizer.ask()
        told = [judge(genome) for genome in batch]
        optimizer.tell(told)
        values += [o.values for o in told]
    reference = 0.0
    assert (
        hypervolume(np.array(values), reference) > hypervolume(np.array(values[:2]), reference) + 0.05
    )


def test_a_campaign_tells_the_items_and_replays(tmp_path):
    file = write_campaign(
        tmp_path, evaluators=("pets",), optimizer={"kind": "m2n2", "population": 4},
        budget={"evaluations": 8}, baselines={"single": [0.5]},
    )  # fmt: skip
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    report.raise_problems()
    told = []
    plain = M2n2.__call__

    def watched(self, given):
        told.extend(o for _, o in given.told)
        return plain(self, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(M2n2, "__call__", watched)
        run(campaign, tmp_path / "run", report.paths, report.storage)
    assert told
    for each in told:
        (items,) = each.items
        assert -each.values[0] == pytest.approx(items.mean())
    assert verify(tmp_path / "run") == []
