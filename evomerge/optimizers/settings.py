"""Settings of optimizers: a frozen dataclass for each kind, whose fields are its options in a campaign file.

A field's annotation says what it may be and its default what it is if a file is silent, so that both stand
in one place; `options` says what annotations there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from evomerge.optimizers.options import Between


@dataclass(frozen=True)
class NoSettings:
    """Settings of an optimizer that has none."""


@dataclass(frozen=True)
class Nsga2Settings:
    """Settings of NSGA-II, in both schedules.

    Attributes:
        start: first population from experts and simple merges (`structured`) or drawn at random.
        operators: variation that knows experts and layers (`structured`), or SBX and polynomial
            mutation alone (`standard`).
        global_generations: so many generations after the first vary whole experts only.
        eta_crossover: distribution index of SBX (Deb and Agrawal 1995); larger is narrower.
        eta_mutation: that of polynomial mutation (Deb and Goyal 1996).
    """

    start: Literal["structured", "random"] = "structured"
    operators: Literal["structured", "standard"] = "structured"
    global_generations: Annotated[float, Between(0.0, 10_000.0)] = 4.0
    eta_crossover: Annotated[float, Between(1.0, 100.0)] = 15.0
    eta_mutation: Annotated[float, Between(1.0, 100.0)] = 20.0


@dataclass(frozen=True)
class LearnedFrontSettings:
    """Settings of the learned front.

    Attributes:
        loss: what is made small: the loss of the right answers, or AdaMerging's entropy over the choices,
            for which no label is looked at (nor what the baselines score, from which the map begins else).
        steps: of a lesson whose budget pays for them; 0 asks for the points of the map as it starts.
        longer: up to so many times as many, where slopes may cost that much; 0 chooses: two where an expert
            has at least 500 genes, else one.
        items: search items of each objective that a step looks at, over all its preferences.
        splits, split_from: into how many smaller ones, each with its share of the items, a step is split; 0
            chooses: two where an expert has at least `split_from` genes, and more where the budget does not
            pay for all steps.
        fewest_items: of each objective, to which steps are split so that the budget pays for as many of them
            as it otherwise would.
        share: of what slopes may cost, half of the budget, that the lesson takes; 0 chooses: all of it where
            an expert has at least 40 genes, else a tenth more than all steps cost with 16 items.
        preferences: how many preferences a step learns from, each of them a job of its own.
        in_turn: whether each objective is foremost in turn in the preferences that are drawn, so that no few
            steps in a row favour one.
        allotment: whether objectives get a step's items in proportion to their weights or alike.
        rate: of Adam, in units of coefficients; 0 chooses it by the number of genes.
        shrinkage: how far each step draws rows to the mean of their matrix, in units of the rate.
        spread: how much more of an expert there is where its own objective is preferred, on the line that is
            asked along where nothing can be learned.
        concentration: of the Dirichlet distribution that preferences are drawn from.
        held_back: share of the search items that no step sees.
        fewest_held_back: so many of an objective at least, as long as one is left; 0 asks for none, and then
            losses on no items are looked at where there are none, as before December 2026.
        look_from, look_every: after so many steps, then so often, and at the end that loss is looked at.
        patience: after so many looks in a row with a loss above 1.03 times the least it stops before that;
            of a lesson longer than `steps` after more, in proportion.
        give_up: after so many steps in a row of which no gradient could be had it stops; 0 never, and such
            steps count as taken, as before December 2026.
        metagpt: whether MetaGPT's weights are evaluated first although gradients can be had.
        whole_tensors: whether it learns where the method makes whole tensors (`tsv_m`, `knots`, `star`,
            `consensus`, `pcb`, `tatr`).
    """

    loss: Literal["labels", "entropy"] = "labels"
    steps: Annotated[int, Between(0, 10_000)] = 30
    longer: Annotated[int, Between(0, 1_000)] = 0
    items: Annotated[int, Between(1, 1_000_000)] = 64
    splits: Annotated[int, Between(0, 100)] = 0
    split_from: Annotated[int, Between(1, 1_000_000)] = 40
    fewest_items: Annotated[int, Between(1, 1_000_000)] = 4
    share: Annotated[float, Between(0.0, 1.0)] = 0.0
    preferences: Annotated[int, Between(1, 1_000)] = 1
    in_turn: bool = True
    allotment: Literal["by_preference", "alike"] = "by_preference"
    rate: Annotated[float, Between(0.0, 10.0)] = 0.0
    shrinkage: Annotated[float, Between(0.0, 100.0)] = 0.0
    spread: Annotated[float, Between(0.0, 10.0)] = 1.2
    concentration: Annotated[float, Between(0.01, 100.0)] = 0.8
    held_back: Annotated[float, Between(0.01, 0.5)] = 0.1
    fewest_held_back: Annotated[int, Between(0, 1_000_000)] = 1
    look_from: Annotated[int, Between(1, 10_000)] = 10
    look_every: Annotated[int, Between(1, 10_000)] = 5
    patience: Annotated[int, Between(1, 1_000)] = 3
    give_up: Annotated[int, Between(0, 1_000)] = 3
    metagpt: bool = False
    whole_tensors: bool = True


@dataclass(frozen=True)
class AutoSettings:
    """Settings of `auto`.

    Attributes:
        loss, steps, longer, items, splits, split_from, fewest_items, share, in_turn, allotment: as those of
            `learned-front`.
        shrinkage, fewest_held_back, patience, give_up, metagpt, whole_tensors: as those of `learned-front`.
        step_preferences: the learned front's `preferences`: how many a step learns from, each a job.
        preferences: so many of its points are evaluated before the surrogate may go on.
        chart: whether the surrogate goes on beside the map: `chosen` does where an expert has fewer than 500
            genes, or with a single objective, a focus, a region or constraints; with more genes the map fits
            search items so well that their scores mislead it. Where it does not, finer preferences follow,
            then points beside the map.
        beyond: whether the surrogate goes on from the chart to the genes themselves: `chosen` does where an
            expert has fewer than 500, when even the lower end of what they are expected to add is more than
            is expected of the chart.
        generations, inner_population, reuse, scales: of the surrogate; see `SurrogateSettings`.
    """

    loss: Literal["labels", "entropy"] = "labels"
    steps: Annotated[int, Between(0, 10_000)] = 30
    longer: Annotated[int, Between(0, 1_000)] = 0
    items: Annotated[int, Between(1, 1_000_000)] = 64
    splits: Annotated[int, Between(0, 100)] = 0
    split_from: Annotated[int, Between(1, 1_000_000)] = 40
    fewest_items: Annotated[int, Between(1, 1_000_000)] = 4
    share: Annotated[float, Between(0.0, 1.0)] = 0.0
    in_turn: bool = True
    allotment: Literal["by_preference", "alike"] = "by_preference"
    shrinkage: Annotated[float, Between(0.0, 100.0)] = 0.0
    fewest_held_back: Annotated[int, Between(0, 1_000_000)] = 1
    patience: Annotated[int, Between(1, 1_000)] = 3
    give_up: Annotated[int, Between(0, 1_000)] = 3
    metagpt: bool = False
    whole_tensors: bool = True
    step_preferences: Annotated[int, Between(1, 1_000)] = 1
    preferences: Annotated[int, Between(4, 1_000)] = 7
    chart: Literal["chosen", "always", "never"] = "chosen"
    beyond: Literal["chosen", "never"] = "chosen"
    generations: Annotated[int, Between(1, 1_000)] = 40
    inner_population: Annotated[int, Between(4, 1_000)] = 60
    reuse: Annotated[int, Between(1, 1_000)] = 4
    scales: Literal["chosen", "by_gene", "by_level"] = "chosen"


REFINING = AutoSettings(beyond="never")
"""Settings of a refinement: near a preference it stays on the chart, where a map was learned."""


@dataclass(frozen=True)
class RandomSettings:
    """Settings of random search.

    Attributes:
        structure: every gene drawn by itself (`independent`), or one value for all genes of an expert
            and coefficient (`global`).
    """

    structure: Literal["independent", "global"] = "independent"


@dataclass(frozen=True)
class SurrogateSettings:
    """Settings of `surrogate`.

    Attributes:
        start: candidates from the structured start before a model is asked.
        generations, inner_population: of NSGA-II on the model, for each batch.
        reuse: in steady state, results after which NSGA-II runs on the model again.
        scales: length scales: one a gene (up to 50), few by level, or `chosen` by number of objectives.
    """

    start: Annotated[int, Between(4, 10_000)] = 16
    generations: Annotated[int, Between(1, 1_000)] = 40
    inner_population: Annotated[int, Between(4, 1_000)] = 60
    reuse: Annotated[int, Between(1, 1_000)] = 4
    scales: Literal["chosen", "by_gene", "by_level"] = "chosen"


@dataclass(frozen=True)
class CmaEsSettings:
    """Settings of `cma-es`.

    Attributes:
        weights: weight vectors, each with a strategy of its own: equal weights, each objective foremost, then
            drawn ones.
        sigma: first standard deviation, as a share of a gene's range; mergekit-evolve's is a sixth.
        others: where what is no weight begins, such as densities: at the method's default, in the middle of
            its bounds if it has none; or, as before December 2026, what belongs to an expert where its weight
            does, and what all share in the middle.
    """

    weights: Annotated[int, Between(1, 1_000)] = 6
    sigma: Annotated[float, Between(1e-3, 1.0)] = 1.0 / 6.0
    others: Literal["default", "as_weights"] = "default"


@dataclass(frozen=True)
class Hm3Settings:
    """Settings of `hm3`. Published are the discount and the parts; the other numbers are ours.

    Attributes:
        preferences: so many are fixed at the start; 0 draws one for each candidate from Dirichlet(1, ..., 1).
        placed: how fixed ones lie: `drawn` from the same, or the first of the simplex `lattice`s (Das and
            Dennis 1998), corners first.
        scalarise: what a path is worth: the weighted sum of its objectives, as published, or their weighted
            Chebyshev distance from the best.
        length: price of a path as long as the base's.
        reward: paid at the end of a walk, or spread evenly over it, as published: a value of what is still to
            come then prefers long walks.
        nearest: at most so many steps about as near to a proto-action, among which the value network picks.
        explore: how often any of them is picked.
        alignment: what sets the scale of a step, where the space has scales: one more dimension of the
            policy's actions, or, as published, a network of both layers and the place, where they do not
            follow one another.
        episodes: walks from which the networks learn together.
        epochs: passes over them.
        discount, trace: gamma, and the factor of generalised advantages.
        clip: of PPO.
        value, entropy: factors of the value's error and of the entropy.
        rate: of Adam.
        hidden: width of the networks.
    """

    preferences: Annotated[int, Between(0, 10_000)] = 0
    placed: Literal["drawn", "lattice"] = "drawn"
    scalarise: Literal["linear", "tchebycheff"] = "linear"
    length: Annotated[float, Between(0.0, 10.0)] = 0.02
    reward: Literal["terminal", "spread"] = "terminal"
    nearest: Annotated[int, Between(1, 1_000)] = 3
    explore: Annotated[float, Between(0.0, 1.0)] = 0.1
    alignment: Literal["action", "network"] = "action"
    episodes: Annotated[int, Between(1, 10_000)] = 16
    epochs: Annotated[int, Between(1, 100)] = 10
    discount: Annotated[float, Between(0.0, 1.0)] = 0.99
    trace: Annotated[float, Between(0.0, 1.0)] = 0.95
    clip: Annotated[float, Between(0.01, 1.0)] = 0.2
    value: Annotated[float, Between(0.0, 10.0)] = 0.5
    entropy: Annotated[float, Between(0.0, 1.0)] = 0.001
    rate: Annotated[float, Between(1e-6, 1.0)] = 0.01
    hidden: Annotated[int, Between(1, 1_024)] = 32


@dataclass(frozen=True)
class OptunaSettings:
    """Settings of `optuna`.

    Attributes:
        sampler: tree-structured Parzen estimators, Gaussian processes (needs torch), or NSGA-III.
        multivariate: whether TPE draws genes jointly.
        seeded: anew for each ask, so that nothing is sampled in a replay; or once for all asks, as stages of
            ledgers from before December 2026 have it, whose asks a replay works out again.
    """

    sampler: Literal["tpe", "gp", "nsga3"] = "tpe"
    multivariate: bool = True
    seeded: Literal["ask", "once"] = "ask"


@dataclass(frozen=True)
class MmmoSettings:
    """Settings of `mmmo`.

    Attributes:
        start: random candidates before a model is asked, besides baselines and starts; what an earlier
            campaign measured counts.
        weak_to_strong: whether points are crossed with steps among the best evaluated.
        fisher: whether those are evaluated of which the model knows least.
        sparsity: whether the size of the change to the base is one more objective.
        acquisition: expected hypervolume is sought point by point and refined (`refined`), or, as before
            December 2026, is the largest of a `pool`: 160 points, 16 draws, a model with one length scale,
            all coefficients of experts for sparsity, and baselines counted by `start`.
    """

    start: Annotated[int, Between(4, 10_000)] = 10
    weak_to_strong: bool = True
    fisher: bool = True
    sparsity: bool = True
    acquisition: Literal["refined", "pool"] = "refined"


@dataclass(frozen=True)
class M2n2Settings:
    """Settings of `m2n2`.

    Attributes:
        archive: models that are kept and mate; 20 in the paper.
        mutation: standard deviation of what is added to a child, as a share of a gene's range; 0 blends only.
    """

    archive: Annotated[int, Between(2, 1_000)] = 20
    mutation: Annotated[float, Between(0.0, 1.0)] = 0.01


@dataclass(frozen=True)
class KinshipSettings:
    """Settings of `kinship`.

    Attributes:
        top: the best so many are merged in pairs.
        explore: share of a batch that merges the best with those it is least akin to.
        similarity: of coefficients.
    """

    top: Annotated[int, Between(2, 100)] = 5
    explore: Annotated[float, Between(0.0, 1.0)] = 0.25
    similarity: Literal["cosine", "pearson", "euclid"] = "cosine"


@dataclass(frozen=True)
class QLogNehviSettings:
    """Settings of `qlognehvi`.

    Attributes:
        start: candidates from the structured start before a model is asked.
        samples: Monte Carlo samples of the acquisition.
        restarts: of the search for its maximum.
        iterations: of each restart.
    """

    start: Annotated[int, Between(4, 10_000)] = 20
    samples: Annotated[int, Between(2, 4_096)] = 64
    restarts: Annotated[int, Between(1, 64)] = 4
    iterations: Annotated[int, Between(1, 1_000)] = 60
