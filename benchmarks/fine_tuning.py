r"""The honest rival: fine-tuning on the items a search pays for, at equal cost and at ten times the cost.

A campaign's search items are labelled, so a model can also be trained on them: all its weights or a LoRA
adapter, from the base or from the best single-coefficient merge, one model for all tasks or one per
preference. Cost is counted as a campaign's is: an evaluation is every search item once, and an item run
backwards counts three times. Learning rate and number of steps are those that are best on selection items
(the search's own choices are made there too); what is printed is measured on test items, as the front of
the campaign in `--run` is. Forgetting: the perplexity of answers in the shapes that only the base was
taught (`--texts`, a file of JSON lines with `context` and `answer`), of a front the median of its models.

    python benchmarks/fine_tuning.py experiments/quickstart/campaign.yaml --run runs/quickstart \
        --out runs/fine_tuning
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from front_quality import Judge

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.campaign.prepared import prepared_baselines, prepared_space
from evomerge.evaluators.judge import score_subject
from evomerge.evaluators.losses import Differentiable
from evomerge.front.folder import open_campaign_folder
from evomerge.objectives.pareto import hypervolume, non_dominated
from evomerge.objectives.scores import Split
from evomerge.optimizers.preferences import lattice
from evomerge.run.engine import Engine
from evomerge.run.job import Job
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup

ITEMS = 64
"""Search items of each task in a step."""
PASSES = 3.0
"""What an item costs that is run backwards, in items only scored."""
STARTS = ("base", "merge")
"""What is trained: the base, or the best merge with one coefficient for all experts."""
LOOKS = (0.1, 0.2, 0.4, 0.7, 1.0)
"""After which shares of the steps a model is scored on selection items."""


@dataclass(frozen=True)
class Kind:
    """What is trained: all weights, or a LoRA adapter of a rank on all linear layers."""

    name: str
    rates: tuple[float, ...]
    rank: int = 0


KINDS = {"full": Kind("full", (1e-4, 4e-4)), "lora": Kind("lora", (1e-3, 4e-3), rank=8)}


@dataclass(frozen=True)
class Trained:
    """A model that was trained, and its scores on selection items in the order of the objectives."""

    rate: float
    steps: int
    values: tuple[float, ...]
    weights: dict[str, torch.Tensor]

    @property
    def mean(self) -> float:
        """What one model for all tasks is chosen by."""
        return float(np.mean(self.values))


class Bench:
    """The loaded campaign: its models, evaluators and what a run of it found."""

    def __init__(self, campaign: Campaign, run: Path, out: Path, texts: Path | None) -> None:
        report = check_campaign(campaign)
        report.raise_problems()
        setup = worker_setup(
            campaign, report.paths, report.storage, out / "cache", allow_task_code=False
        )
        self.campaign = campaign
        self.engine = Engine(setup)
        self.folder = open_campaign_folder(run)
        history = self.folder.history
        assert history.prepared is not None
        assert history.baselines is not None
        self.front = self.folder.front()
        space = prepared_space(campaign, history.prepared, report.paths)
        recipes = prepared_baselines(campaign, history.prepared, report.paths, history.candidates)
        self.starts = {
            "base": recipes["base"],
            history.baselines.single: recipes[history.baselines.single],
        }
        self.members = {
            member.id: space.decode(history.candidates[member.id].genome or ())
            for member in self.front.members
        }
        self.metrics = [objective.metric for objective in campaign.objectives]
        self.evaluators: list[Differentiable] = []
        for metric in self.metrics:
            found = next(each for each in self.engine.evaluators if metric in each.metrics)
            assert isinstance(found, Differentiable)
            self.evaluators.append(found)
        self.counts = [each.item_count("search") for each in self.evaluators]
        self.judge = Judge(Worker(setup), campaign, out / "test_items.json")
        lines = [] if texts is None else texts.read_text().splitlines()
        self.texts = [json.loads(line) for line in lines]

    def step_cost(self) -> float:
        """Evaluations that a step costs."""
        return PASSES * sum(min(ITEMS, count) for count in self.counts) / sum(self.counts)

    def start(self, recipe: Any) -> Any:
        """A model of its own, merged by a recipe."""
        job = Job("start", "evaluate", recipe.to_json(), "search", rows=recipe.row_content)
        merged = self.engine._merge(job)
        return copy.deepcopy(merged.model)

    def score(self, model: Any, split: Split) -> dict[str, np.ndarray]:
        """Per metric the float64 [items] results of a model."""
        subject = self.engine._subject(model, next(iter(self.starts.values())))
        with torch.no_grad():
            return score_subject(subject, self.engine.evaluators, split).arrays()

    def values(self, model: Any, split: Split) -> tuple[float, ...]:
        """Means in the order of the objectives."""
        arrays = self.score(model, split)
        return tuple(float(arrays[metric].mean()) for metric in self.metrics)

    def forgetting(self, model: Any) -> float:
        """Perplexity per token of the answers of `texts`; NaN without."""
        tokenizer = self.engine.tokenizer()
        total, tokens = 0.0, 0
        with torch.no_grad():
            for text in self.texts:
                context = tokenizer(text["context"])["input_ids"]
                answer = tokenizer(text["answer"], add_special_tokens=False)["input_ids"]
                ids = torch.tensor([context + answer])
                logits = model(input_ids=ids).logits[0, len(context) - 1 : -1].double()
                total -= logits.log_softmax(-1)[range(len(answer)), answer].sum().item()
                tokens += len(answer)
        return math.exp(total / tokens) if tokens else math.nan


def train(
    bench: Bench,
    start: Any,
    kind: Kind,
    rate: float,
    steps: int,
    preference: Sequence[float],
    seed: int,
) -> Iterator[tuple[int, Any]]:
    """AdamW with cosine decay on the preference-weighted loss; yields (steps, model) at the looks.

    The model that is yielded may be scored; it goes on being trained.
    """
    model = copy.deepcopy(start)
    if kind.rank:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=kind.rank, lora_alpha=2 * kind.rank, target_modules="all-linear")
        torch.manual_seed(seed)
        wrapped: Any = get_peft_model(model, config)
        trained, forward = wrapped, wrapped.base_model.model
    else:
        trained = forward = model.requires_grad_(True)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    subject = bench.engine._subject(forward, next(iter(bench.starts.values())))
    looks = {max(1, round(share * steps)) for share in LOOKS}
    warm = max(1, steps // 20)
    for step in range(steps):
        heat = min((step + 1) / warm, 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = rate * heat
        optimizer.zero_grad(set_to_none=True)
        for evaluator, count, weight in zip(bench.evaluators, bench.counts, preference, strict=True):
            if weight == 0.0:
                continue
            items = sorted(rng.choice(count, size=min(ITEMS, count), replace=False).tolist())
            for _, losses in evaluator.losses(subject, "search", items):
                torch.autograd.backward(losses.sum() * (weight / len(items)))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step + 1 in looks:
            yield step + 1, forward


def best_of(
    bench: Bench,
    start: Any,
    kind: Kind,
    rates: Sequence[float],
    steps: int,
    preference: Sequence[float],
) -> Trained:
    """The rate and number of steps with the best preference-weighted mean on selection items."""
    found: list[Trained] = []
    for rate in rates:
        for done, model in train(bench, start, kind, rate, steps, preference, seed=20):
            values = bench.values(model, "selection")
            weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            found.append(Trained(rate, done, values, weights))
            best = max(found, key=lambda each: float(np.dot(each.values, preference)))
            found = [best]
    return found[0]


def loaded(bench: Bench, start: Any, kind: Kind, trained: Trained) -> Any:
    """The trained model again."""
    model = copy.deepcopy(start)
    if kind.rank:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=kind.rank, lora_alpha=2 * kind.rank, target_modules="all-linear")
        model = get_peft_model(model, config).base_model.model
    model.load_state_dict(trained.weights)
    return model


def describe(bench: Bench, values: np.ndarray) -> tuple[float, float]:
    """Hypervolume, in the campaign's scaling, and the largest mean of metrics, float64 [models, metrics]."""
    signs = np.array([objective.sign for objective in bench.campaign.objectives])
    return hypervolume(bench.front.scaling.scale(values * signs)), 100 * float(
        values.mean(axis=1).max()
    )


def one_for_all(
    bench: Bench, cost: float, kinds: Sequence[Kind], starts: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row for each start and each kind: one model that is to be good at everything."""
    equal = [1 / len(bench.metrics)] * len(bench.metrics)
    for start_name, kind in itertools.product(starts, kinds):
        name, recipe = list(bench.starts.items())[STARTS.index(start_name)]
        start = bench.start(recipe)
        steps = max(1, round(cost / bench.step_cost()))
        found = best_of(bench, start, kind, kind.rates, steps, equal)
        model = loaded(bench, start, kind, found)
        test = bench.values(model, "test")
        yield {
            "models": "one", "start": name, "kind": kind.name, "cost": cost,
            "rate": found.rate, "steps": found.steps,
            "search": np.mean(bench.values(model, "search")), "selection": found.mean,
            "test": np.mean(test), "test_values": test,
            "hypervolume": describe(bench, np.array([test]))[0],
            "forgetting": bench.forgetting(model),
        }  # fmt: skip


def one_per_preference(
    bench: Bench, cost: float, kinds: Sequence[Kind], starts: Sequence[str], count: int
) -> Iterator[dict[str, Any]]:
    """A row for each start and each kind: a front of models, the cost shared among preferences."""
    preferences = list(itertools.islice(lattice(len(bench.metrics)), count))
    for start_name, kind in itertools.product(starts, kinds):
        name, recipe = list(bench.starts.items())[STARTS.index(start_name)]
        start = bench.start(recipe)
        steps = max(1, round(cost / count / bench.step_cost()))
        chosen, test, forgotten = [], [], []
        for preference in preferences:
            found = best_of(bench, start, kind, kind.rates, steps, preference)
            model = loaded(bench, start, kind, found)
            chosen.append(found.values)
            test.append(bench.values(model, "test"))
            forgotten.append(bench.forgetting(model))
        signs = np.array([objective.sign for objective in bench.campaign.objectives])
        stays = non_dominated(np.array(chosen) * signs)
        volume, mean = describe(bench, np.array(test)[stays])
        yield {
            "models": f"{count} preferences", "start": name, "kind": kind.name, "cost": cost,
            "members": int(stays.sum()), "hypervolume": volume, "test": mean / 100,
            "forgetting": float(np.median(forgotten)),
        }  # fmt: skip


def untrained_row(bench: Bench, start: str) -> dict[str, Any]:
    """What a start has before it is trained."""
    name, recipe = list(bench.starts.items())[STARTS.index(start)]
    model = bench.start(recipe)
    test = bench.values(model, "test")
    return {
        "models": "one", "start": name, "kind": "-", "cost": 0.0,
        "search": np.mean(bench.values(model, "search")),
        "selection": np.mean(bench.values(model, "selection")),
        "test": np.mean(test), "hypervolume": describe(bench, np.array([test]))[0],
        "forgetting": bench.forgetting(model),
    }  # fmt: skip


def search_row(bench: Bench) -> dict[str, Any]:
    """What the campaign's front has, measured alike."""
    arrays = {name: bench.judge.items(recipe) for name, recipe in bench.members.items()}
    values = np.array([[array.mean() for array in found] for found in arrays.values()])
    best = min(bench.front.members, key=lambda member: sum(member.scaled)).id
    model = bench.start(bench.members[best])
    return {
        "models": f"front of {len(values)}", "start": "base", "kind": "merges",
        "cost": bench.folder.history.cost, "hypervolume": describe(bench, values)[0],
        "search": np.mean(bench.values(model, "search")),
        "selection": np.mean(bench.values(model, "selection")),
        "test": np.mean([array.mean() for array in arrays[best]]),
        "forgetting": bench.forgetting(model),
    }  # fmt: skip


def main() -> None:
    """Print a JSON row for each rival, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of the campaign")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="held-out text, for forgetting")
    parser.add_argument("--costs", type=float, nargs="+", default=[50, 500])
    parser.add_argument("--preferences", type=int, default=10, help="models of a front")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument(
        "--starts", nargs="*", choices=STARTS, default=STARTS, help="of one model for all"
    )
    parser.add_argument("--fronts", nargs="*", choices=STARTS, default=STARTS, help="starts of fronts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    campaign = load_campaign(arguments.campaign)
    evaluation = campaign.config.evaluation.model_copy(update={"device": "cpu"})
    campaign = replace(campaign, config=campaign.config.model_copy(update={"evaluation": evaluation}))
    bench = Bench(campaign, arguments.run, arguments.out, arguments.texts)
    kinds = [KINDS[name] for name in arguments.kinds]
    rows = [search_row(bench), *(untrained_row(bench, start) for start in STARTS)]
    for row in rows:
        print(json.dumps(row), flush=True)
    for cost in arguments.costs:
        began = time.process_time()
        for row in itertools.chain(
            one_for_all(bench, cost, kinds, arguments.starts),
            one_per_preference(bench, cost, kinds, arguments.fronts, arguments.preferences),
        ):
            row["cpu_s"] = time.process_time() - began
            began = time.process_time()
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(f"\n{'models':<18}{'start':<14}{'trained':<9}{'cost':>6}{'search':>8}{'select.':>8}{'test':>7}"
          f"{'hypervolume':>13}{'forgetting':>12}")  # fmt: skip
    for row in rows:
        percent = [
            f"{100 * row[key]:.1f}" if key in row else "-" for key in ("search", "selection", "test")
        ]
        print(
            f"{row['models']:<18}{row['start']:<14}{row['kind']:<9}{row['cost']:>6.0f}{percent[0]:>8}"
            f"{percent[1]:>8}{percent[2]:>7}{row['hypervolume']:>13.3f}"
            f"{row.get('forgetting', math.nan):>12.3f}"
        )


if __name__ == "__main__":
    main()
