"""Problems without models to try an optimizer on: analytic fronts, and one that behaves like a merge.

Each gives an `Outcome` for a genome, deterministic in it, with objectives in minimised form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.objective import Complete, Objective, Scaling
from evomerge.objectives.pareto import REFERENCE, hypervolume, non_dominated
from evomerge.optimizers.slopes import Slope, SlopeGround, SlopeRequest
from evomerge.search_space import Gene, Genome


@dataclass(frozen=True)
class TestProblem:
    """A problem for an optimizer.

    Attributes:
        name: for tables.
        genes: what is searched.
        objectives: in the order of the values.
        initial: genomes to start from; none for analytic problems.
        outcome: genome to what an optimizer is told.
        quality: genomes evaluated, in order, to the hypervolume of the front they give.
        ground: what slopes can be asked of; None where there are none.
        slope: the answer to a request for a slope.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    name: str
    genes: tuple[Gene, ...]
    objectives: tuple[Objective, ...]
    initial: tuple[Genome, ...]
    outcome: Callable[[Genome], Complete]
    quality: Callable[[list[Genome]], float]
    ground: SlopeGround | None = None
    slope: Callable[[SlopeRequest], Slope] | None = None


def unit_genes(count: int, step: float = 1e-3) -> tuple[Gene, ...]:
    """Genes in [0, 1] of one expert in as many layers."""
    return tuple(
        Gene(f"weight.x.layers.{i:04d}", 0.0, 1.0, step, "weight", "x", (f"layers.{i}.mlp",))
        for i in range(count)
    )


def minimised(count: int) -> tuple[Objective, ...]:
    """Objectives `f0`, `f1`, ... to minimise."""
    return tuple(Objective(f"f{i}", "minimize") for i in range(count))


def _analytic(
    name: str,
    genes: int,
    objectives: int,
    worst: float,
    function: Callable[[np.ndarray], np.ndarray],
) -> TestProblem:
    """A problem of a plain function; hypervolume up to `worst` in every objective."""

    def outcome(genome: Genome) -> Complete:
        values = tuple(function(np.array(genome, dtype=np.float64)).tolist())
        return Complete(values, (0.0,) * objectives)

    def quality(genomes: list[Genome]) -> float:
        values = np.array([outcome(genome).values for genome in genomes])
        return hypervolume(values, worst)

    return TestProblem(name, unit_genes(genes), minimised(objectives), (), outcome, quality)


def zdt1(genes: int = 30) -> TestProblem:
    """ZDT1 of Zitzler, Deb and Thiele (2000): a convex front of two objectives, at genes 1 on = 0."""

    def values(x: np.ndarray) -> np.ndarray:
        g = 1.0 + 9.0 * float(x[1:].mean()) if len(x) > 1 else 1.0
        return np.array([x[0], g * (1.0 - np.sqrt(x[0] / g))])

    return _analytic("zdt1", genes, 2, 7.0, values)


def zdt2(genes: int = 30) -> TestProblem:
    """ZDT2 of the same paper: a concave front."""

    def values(x: np.ndarray) -> np.ndarray:
        g = 1.0 + 9.0 * float(x[1:].mean()) if len(x) > 1 else 1.0
        return np.array([x[0], g * (1.0 - (x[0] / g) ** 2)])

    return _analytic("zdt2", genes, 2, 7.0, values)


def zdt3(genes: int = 30) -> TestProblem:
    """ZDT3 of the same paper: a front of five separate pieces."""

    def values(x: np.ndarray) -> np.ndarray:
        g = 1.0 + 9.0 * float(x[1:].mean()) if len(x) > 1 else 1.0
        share = x[0] / g
        return np.array([x[0], g * (1.0 - np.sqrt(share) - share * np.sin(10.0 * np.pi * x[0]))])

    return _analytic("zdt3", genes, 2, 7.0, values)


def zdt4(genes: int = 10) -> TestProblem:
    """ZDT4 of the same paper: the front of ZDT1 at genes 1 on = 1/2, and 21 local ones a gene on the way."""

    def values(x: np.ndarray) -> np.ndarray:
        rest = 10.0 * x[1:] - 5.0
        g = 1.0 + float((10.0 + rest**2 - 10.0 * np.cos(4.0 * np.pi * rest)).sum())
        return np.array([x[0], g * (1.0 - np.sqrt(x[0] / g))])

    return _analytic("zdt4", genes, 2, 50.0 * genes, values)


def dtlz2(genes: int = 12, objectives: int = 3) -> TestProblem:
    """DTLZ2 of Deb, Thiele, Laumanns and Zitzler (2002): a sphere's corner, genes past the first = 1/2."""

    def values(x: np.ndarray) -> np.ndarray:
        angles, rest = x[: objectives - 1] * np.pi / 2.0, x[objectives - 1 :]
        radius = 1.0 + float(((rest - 0.5) ** 2).sum())
        found = np.full(objectives, radius)
        for i in range(objectives):
            found[i] *= np.cos(angles[: objectives - 1 - i]).prod()
            if i:
                found[i] *= np.sin(angles[objectives - 1 - i])
        return found

    return _analytic("dtlz2", genes, objectives, 2.5, values)


_WIDTH = 6
"""Numbers by which a task sees a place's task vector in `merge_like`."""


def merge_like(
    layers: int = 8,
    modules: int = 1,
    experts: int = 3,
    items: int = 300,
    seed: int = 0,
    smooth: bool = True,
) -> TestProblem:
    """A merge as a search sees it: one task an expert, interference, items that are right or wrong.

    Task t sees the task vector of expert e at place p as a vector v[t, e, p]. It is lost what its own
    expert's differs from the sum of all, in each place and, since errors pass on, in their sum over places;
    how much a place matters, and how far a stranger disturbs there, is drawn anew for each. An item is right
    if its margin, which falls with the loss, is above 0; for slopes its loss is log(1 + exp(-margin)).
    Optimizers are told of search items; the front is
    chosen on selection items, and judged by hypervolume on test items, scaled by base and experts.

    Args:
        layers: places along the depth.
        modules: genes per expert and layer.
        experts: as many as tasks.
        items: of search and of selection; test has ten times as many.
        seed: of what is drawn for the problem.
        smooth: whether outcomes carry the mean of tanh(margin / 2) beside the accuracy.
    """
    rng = np.random.default_rng((seed, layers, modules, experts))
    places = layers * modules
    genes = tuple(
        Gene(
            f"weight.e{e}.layers.{i:03d}.m{m}", 0.0, 1.5, 1e-3, "weight", f"e{e}", (f"layers.{i}.m{m}",)
        )
        for e in range(experts)
        for i in range(layers)
        for m in range(modules)
    )
    own = rng.gamma(1.0, 1.0, (experts, places))
    stranger = 0.55 * rng.gamma(0.7, 1.4, (experts, experts, places))
    seen = rng.normal(size=(experts, experts, places, _WIDTH)) / np.sqrt(_WIDTH) * stranger[..., None]
    for task in range(experts):
        seen[task, task] = rng.normal(size=(places, _WIDTH)) / np.sqrt(_WIDTH) * own[task, :, None]
    # A stranger's vector leans a little towards the task's own: some of what it learned is shared.
    lean = rng.normal(0.1, 0.25, (experts, experts, places))
    for task in range(experts):
        for other in range(experts):
            if other != task:
                seen[task, other] += lean[task, other, :, None] * seen[task, task]
    goal = np.stack([seen[task, task] for task in range(experts)])
    norm = (goal**2).sum(axis=(1, 2))
    drift = (goal.sum(axis=1) ** 2).sum(axis=1)

    def losses(genomes: np.ndarray) -> np.ndarray:
        """Float64 [n, genes] to [n, tasks]: about 1 for the base, 0 where nothing is lost."""
        coefficients = genomes.reshape(len(genomes), experts, places)
        made = np.einsum("nep,tepw->ntpw", coefficients, seen, optimize=True)
        missed = made - goal
        found: np.ndarray = 0.6 * (missed**2).sum(axis=(2, 3)) / norm
        found += 0.4 * (missed.sum(axis=2) ** 2).sum(axis=2) / drift
        return found

    split = {
        name: rng.normal(size=(experts, count)) * 1.2
        for name, count in (("search", items), ("selection", items), ("test", 10 * items))
    }
    twist = {name: rng.normal(size=(experts, kind.shape[1], 8)) for name, kind in split.items()}
    direction = rng.normal(size=(8, len(genes))) / np.sqrt(len(genes))

    def margins(genomes: np.ndarray, which: str) -> np.ndarray:
        """Float64 [n, tasks, items]; what an item asks of the weights differs from the others a little."""
        level = 3.2 * (0.62 - losses(genomes))
        turned = np.einsum("ng,fg->nf", genomes - 0.5, direction)
        odd = np.einsum("nf,tif->nti", np.tanh(2.0 * turned), twist[which]) * 0.35
        margin: np.ndarray = level[:, :, None] + split[which] + odd
        return margin

    def slope(request: SlopeRequest) -> Slope:
        row = np.array([request.genome])
        missed = np.einsum("ep,tepw->tpw", row.reshape(experts, places), seen, optimize=True) - goal
        turned = np.tanh(2.0 * (direction @ (row[0] - 0.5)))
        found, total = [], np.zeros(len(genes))
        for task, (weight, chosen) in enumerate(zip(request.weights, request.items, strict=True)):
            margin = margins(row, "search")[0, task, list(chosen)]
            found.append(float(np.logaddexp(0.0, -margin).mean()) if chosen else float("nan"))
            if weight == 0.0:
                continue
            by_margin = -1.0 / (1.0 + np.exp(margin)) / len(chosen)
            lost = 1.2 * np.einsum("pw,epw->ep", missed[task], seen[task]) / norm[task]
            lost += 0.8 * np.einsum("w,epw->ep", missed[task].sum(axis=0), seen[task]) / drift[task]
            odd = (by_margin @ twist["search"][task, list(chosen)]) * 0.7 * (1.0 - turned**2)
            total += weight * (-3.2 * by_margin.sum() * lost.reshape(-1) + odd @ direction)
        return Slope(tuple(found), total if any(request.weights) else np.empty(0))

    def accuracy(genomes: np.ndarray, which: str) -> np.ndarray:
        right: np.ndarray = (margins(genomes, which) > 0.0).mean(axis=2)
        return right

    objectives = tuple(Objective(f"task{t}.acc", "maximize") for t in range(experts))

    def outcome(genome: Genome) -> Complete:
        margin = margins(np.array([genome]), "search")[0]
        right = (margin > 0.0).mean(axis=1)
        errors = np.sqrt(right * (1.0 - right) / items)
        told = tuple((-np.tanh(margin / 2.0).mean(axis=1)).tolist()) if smooth else ()
        return Complete(tuple((-right).tolist()), tuple(errors.tolist()), (), told)

    corners = np.zeros((experts + 1, experts, places))
    corners[np.arange(experts), np.arange(experts)] = 1.0
    alike = [np.full(len(genes), c) for c in (round(1.0 / experts, 3), 0.6)]
    initial = [*corners[:experts].reshape(experts, -1), *alike]
    scaling = Scaling.from_values(-accuracy(corners.reshape(experts + 1, -1), "test"))

    def quality(genomes: list[Genome]) -> float:
        rows = np.array(genomes)
        front = rows[non_dominated(-accuracy(rows, "selection"))]
        return hypervolume(scaling.scale(-accuracy(front, "test")), REFERENCE)

    name = f"merge-like {len(genes)}" + ("" if smooth else ", accuracies")
    start = tuple(tuple(row.tolist()) for row in initial)
    gains = {f"e{e}": tuple(float(e == task) for task in range(experts)) for e in range(experts)}
    ground = SlopeGround((items,) * experts, gains)
    return TestProblem(name, genes, objectives, start, outcome, quality, ground, slope)
