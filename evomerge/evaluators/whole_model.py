"""Objectives of the model itself, which has no items: its size, its distance to the base, its latency.

The model counts as the one item of each split, so that what is computed of per-item results holds here too.
"""

from __future__ import annotations

import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from evomerge.errors import Problem, UsageError
from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.item_evaluator import DeclaredEvaluator, chosen_blocks
from evomerge.evaluators.items import item_id
from evomerge.objectives.scores import Scores, Split, mean_metric
from evomerge.recipe.recipe import canonical_json

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject

RUNS = 3
"""Runs of which the fastest is one measurement: others on the machine make a run slower, never faster."""


class WholeModelDeclaration(Declaration):
    """A declaration without items."""

    metric_directions: ClassVar[Mapping[str, bool | None]]

    def directions(self) -> dict[str, bool | None]:
        """Full metric name to whether higher is better."""
        return {f"{self.name}.{metric}": higher for metric, higher in self.metric_directions.items()}

    def problems(self, *, allow_code: bool = False) -> list[Problem]:
        """None: what is declared is all there is."""
        return []

    def digest(self) -> str:
        """SHA-256 (hex) over the settings."""
        return hashlib.sha256(canonical_json(self.model_dump(by_alias=True)).encode()).hexdigest()

    def size(self) -> tuple[int, int]:
        """One item, no tokens."""
        return 1, 0


class SizeDeclaration(WholeModelDeclaration):
    """Number of parameters (tied ones once, of repeated layers each time) and of layers.

    `active_parameters` are those that a token meets: of the experts of a mixture as many as it goes to.
    """

    metric_directions: ClassVar[Mapping[str, bool | None]] = {
        "parameters": False,
        "active_parameters": False,
        "layers": False,
    }

    kind: Literal["size"]


class DistanceDeclaration(WholeModelDeclaration):
    """How far the weights are from the base: `l1` as in MM-MO (Li et al. 2024, arXiv:2407.00487), `l2`."""

    metric_directions: ClassVar[Mapping[str, bool | None]] = {"l1": None, "l2": None}
    reads = ("l1", "l2")

    kind: Literal["distance"]


class LatencyDeclaration(WholeModelDeclaration):
    """Seconds a token of greedy decoding takes, for one sequence. Measured: no two runs agree.

    Attributes:
        prompt_tokens: length of the prompt.
        tokens: tokens decoded in a run.
        repeats: measurements, each the fastest of `RUNS` runs; their mean is the value.
    """

    deterministic = False
    metric_directions: ClassVar[Mapping[str, bool | None]] = {
        "seconds_per_token": False,
        "seconds_to_first_token": False,
    }

    kind: Literal["latency"]
    prompt_tokens: PositiveInt = 64
    tokens: PositiveInt = 16
    repeats: PositiveInt = 5

    def size(self) -> tuple[int, int]:
        """One item a measurement."""
        return self.repeats, RUNS * self.repeats * (self.prompt_tokens + self.tokens)


class WholeModel(DeclaredEvaluator, ABC):
    """The evaluator of a declaration without items; see `Evaluator`. All items are in one block."""

    declaration: WholeModelDeclaration

    def __init__(self, declaration: WholeModelDeclaration) -> None:
        self.declaration = declaration

    def item_count(self, split: Split) -> int:
        """Number of measurements."""
        return self.declaration.size()[0]

    def item_ids(self, split: Split) -> tuple[str, ...]:
        """A name for each measurement of a split."""
        count = self.item_count(split)
        return tuple(sorted(item_id({"split": split, "measurement": n}) for n in range(count)))

    def evaluate(self, subject: Subject, split: Split, blocks: Sequence[int] | None = None) -> Scores:
        """Measure the model; the split changes nothing."""
        chosen_blocks(blocks, 1)
        items = {
            f"{self.name}.{name}": np.asarray(values, dtype=np.float64)
            for name, values in self.measure(subject).items()
        }
        return Scores({name: mean_metric(values) for name, values in items.items()}, items)

    @abstractmethod
    def measure(self, subject: Subject) -> Mapping[str, Sequence[float]]:
        """Metric (without prefix) to its measurements."""


class Size(WholeModel):
    """Counts what an export of the model holds."""

    def measure(self, subject: Subject) -> Mapping[str, Sequence[float]]:
        """Parameters, those that a token meets, and layers."""
        # A layer that stands in a path twice is one in memory and two in an export.
        every = subject.model.named_parameters(remove_duplicate=False)
        sizes = {
            (id(p), *re.findall(r"\.(\d+)\.", name)[:1]): (".experts." in name, p.numel())
            for name, p in every
        }
        routed = sum(size for is_expert, size in sizes.values() if is_expert)
        rest = sum(size for is_expert, size in sizes.values() if not is_expert)
        config = subject.model.config.get_text_config()
        share = _share_of_experts(config) if routed else 1.0
        return {
            "parameters": [float(routed + rest)],
            "active_parameters": [float(rest + round(routed * share))],
            "layers": [float(config.num_hidden_layers)],
        }


def _share_of_experts(config: Any) -> float:
    """How many of its experts a token meets; all where the config does not say it in the usual words."""
    counts = (getattr(config, name, None) for name in ("num_local_experts", "num_experts"))
    experts = next((count for count in counts if count), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return chosen / experts if experts and chosen else 1.0


class Distance(WholeModel):
    """Reads what materialising the merge measured."""

    def measure(self, subject: Subject) -> Mapping[str, Sequence[float]]:
        """Sum of |merged - base| over all parameters, and the root of the sum of its squares."""
        lacking = [name for name in self.declaration.reads if name not in subject.statistics]
        if lacking:
            wrong = f"`{self.name}` measures a distance, and no base is known"
            raise UsageError(Problem("E500", wrong, "", "name the base: --base"))
        return {name: [subject.statistics[name]] for name in self.declaration.reads}


class Latency(WholeModel):
    """Times greedy decoding with a cache of keys and values."""

    declaration: LatencyDeclaration

    def measure(self, subject: Subject) -> Mapping[str, Sequence[float]]:
        """Seconds to the first token, and for each later one."""
        from evomerge.evaluators.canary import check_logits

        check_logits(subject.model, subject.tokenizer, [])
        self._run(subject)  # the first run also loads and allocates
        first, rest = [], []
        for _ in range(self.declaration.repeats):
            runs = [self._run(subject) for _ in range(RUNS)]
            first.append(min(run[0] for run in runs))
            rest.append(min(run[1] for run in runs))
        return {"seconds_per_token": rest, "seconds_to_first_token": first}

    def _run(self, subject: Subject) -> tuple[float, float]:
        import torch

        model: Any = subject.model
        vocabulary = model.get_input_embeddings().weight.shape[0]
        prompt = torch.arange(self.declaration.prompt_tokens, device=model.device)[None] % vocabulary

        def now() -> float:
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            return time.perf_counter()

        with torch.inference_mode():
            begun = now()
            output = model(input_ids=prompt, use_cache=True)
            started = now()
            for _ in range(self.declaration.tokens):
                token = output.logits[:, -1:].argmax(dim=-1)
                output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
            ended = now()
        return started - begun, (ended - started) / self.declaration.tokens
