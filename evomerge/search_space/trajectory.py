"""Averages over a window of checkpoints of one run: which is the last, how many, and how far apart.

SWA (Izmailov et al. 2018, arXiv:1803.05407) averages checkpoints from the end of a run, LAWA (Kaddour 2022,
arXiv:2209.14981) the latest k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evomerge.recipe.recipe import MERGED, MergedSource, Recipe
from evomerge.search_space.genes import Gene, Genome


@dataclass(frozen=True)
class Trajectory:
    """Windows of checkpoints as genes.

    Attributes:
        weights: the gene that a weight of each checkpoint would be, 0 or 1, in the order of the run.
        strides: largest distance between two checkpoints of a window.
    """

    weights: tuple[Gene, ...]
    strides: int

    @property
    def genes(self) -> tuple[Gene, ...]:
        """The last checkpoint of a window, how many there are, and where there is a choice their distance."""
        count = float(len(self.weights))
        strides = float(self.strides) if count > 1.0 else 1.0
        bounds = {"last": (1.0, count), "length": (1.0, count), "stride": (1.0, strides)}
        return tuple(
            Gene(f"window.{name}", low, high, 1.0, name, "*", ())
            for name, (low, high) in bounds.items()
            if high > low
        )

    def shares(self, genome: Sequence[float]) -> Genome:
        """1 for each checkpoint of a window, 0 for the others. Where the run begins, the window ends."""
        last, length, stride = (int(value) for value in (*genome, 1.0)[:3])
        inside = range(last, max(0, last - length * stride), -stride)
        return tuple(float(number in inside) for number in range(1, len(self.weights) + 1))

    def nearest(self, wanted: Sequence[float]) -> Genome:
        """The window whose average is nearest to one by these weights (squares of differences of shares)."""
        total = sum(wanted) or 1.0

        def distance(genome: Genome) -> float:
            own = self.shares(genome)
            pairs = zip(own, wanted, strict=True)
            return sum((one / sum(own) - other / total) ** 2 for one, other in pairs)

        return min(self._windows(), key=distance)

    def _windows(self) -> Iterator[Genome]:
        """All there are, each once; of the ways to spell one the shortest."""
        for last in range(1, len(self.weights) + 1):
            for stride in range(1, self.strides + 1):
                for length in range(1 if stride == 1 else 2, (last - 1) // stride + 2):
                    yield (float(last), float(length), float(stride))[: len(self.genes)]


def weights_in(recipe: Recipe, experts: Sequence[str]) -> list[float] | None:
    """A weight of each expert in a recipe that merges whole models, or is one of them; else None."""
    plain = {step.source for step in recipe.path}
    if plain <= set(experts):
        return [float(name in plain) for name in experts]
    source = recipe.sources.get(MERGED)
    if not isinstance(source, MergedSource):
        return None
    tables = source.coefficients.get("weight", {})
    return [tables.get(name, {}).get("", 0.0) for name in experts]
