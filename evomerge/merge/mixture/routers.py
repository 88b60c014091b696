"""The rows of a mixture's routers, for one mixture or for many of the same base and experts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import Reader, TensorReader
from evomerge.merge.mixture.architectures import MLP, READERS
from evomerge.merge.mixture.experts import Expert, arrow_rows
from evomerge.merge.mixture.gates import Rows, prompted_rows, random_gates
from evomerge.merge.statistics.calibrated import expert_model
from evomerge.recipe.mixture import Gate, Mixture, Prompts


class Routers:
    """Makes rows of routers; what prompts and weights give of an expert is worked out once.

    Args:
        base: whose task vectors and hidden states count, whatever the dense part of a mixture is.
        readers: of the experts by name.
    """

    def __init__(self, base: CheckpointFolder, readers: Mapping[str, Reader]) -> None:
        self._base, self._readers = base, readers
        self._own = TensorReader(base)
        # Without prompts the directions of weights, which need none.
        self._known: dict[tuple[Gate | None, str, Prompts | None], Rows] = {}

    def experts(self, mixture: Mixture) -> list[Expert]:
        """What is written as experts, in order: with Arrow's two sides each of them twice."""
        found = [Expert(self._own, self._readers[name], mixture.rank) for name in mixture.experts]
        return found * 2 if mixture.is_doubled else found

    def rows(self, mixture: Mixture) -> torch.Tensor:
        """Float32 [layers of the base, experts as they are written, hidden].

        Raises:
            ConfigError: E109, the prompts of an expert cancel.
        """
        if mixture.gate == "random":
            hidden = int(self._base.config["hidden_size"])
            spread = float(self._base.config.get("initializer_range", 0.02))
            count = len(mixture.experts)
            rows = random_gates(mixture.seed, count, self._base.layers, hidden, spread)
        elif mixture.gate == "arrow":
            rows = torch.stack([self._arrow(name) for name in mixture.experts], 1)
        if mixture.is_prompted:
            prompted = self._prompted(mixture)
            if mixture.gate == "arrow":
                rows = torch.where((rows * prompted).sum(2, keepdim=True) < 0.0, -rows, rows)
            else:
                rows = prompted
        rows = rows / mixture.temperature
        # The k largest of s and -s are the k largest of abs(s): Arrow's score by a linear router.
        return torch.cat([rows, -rows], 1) if mixture.is_doubled else rows

    def _arrow(self, name: str) -> Rows:
        key = (None, name, None)
        if key not in self._known:
            expert = Expert(self._own, self._readers[name])
            self._known[key] = arrow_rows([expert], _read_by(self._base))[:, 0]
        return self._known[key]

    def _prompted(self, mixture: Mixture) -> torch.Tensor:
        keys: list[tuple[Gate, str, Prompts]] = [
            (mixture.gate, name, mixture.prompts[name]) for name in mixture.experts
        ]
        missing = [key for key in keys if key not in self._known]
        if missing:
            model, _ = expert_model(self._base, self._own)
            for gate, name, prompts in missing:
                made = prompted_rows(gate, prompts, name, model, self._base.path)
                self._known[gate, name, prompts] = made
        return torch.stack([self._known[key] for key in keys], 1)


def _read_by(base: CheckpointFolder) -> list[list[str]]:
    """Of each layer the matrices that read what its router sees."""
    found: dict[int, list[str]] = {}
    for name in base.tensors:
        matched = MLP.fullmatch(name)
        if matched is not None and matched[3] in READERS:
            found.setdefault(int(matched[2]), []).append(name)
    return [found[layer] for layer in sorted(found)]
