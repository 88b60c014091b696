"""lm-eval tasks on a live model: its prompts, metrics and aggregation, requests built only once.

The only file that imports lm-eval. `simple_evaluate` builds and tokenises every request and starts a
dozen processes for each call; here a split's requests are built once per tokenizer and every candidate
answers the same ones: log-likelihoods through lm-eval's own model class or through `packed`, whichever
the declaration and the model allow, texts through `generation`. Numbers are those of stock lm-eval on
the same task file.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from evomerge.errors import ConfigError, EnvironmentFault
from evomerge.evaluators.canary import check_logits, must_chat, must_write, refuse_nan
from evomerge.evaluators.continuous import live_generator
from evomerge.evaluators.data import quiet
from evomerge.evaluators.generation import Generation, GeneratorFactory
from evomerge.evaluators.item_evaluator import chosen_blocks, chosen_items
from evomerge.evaluators.items import fixed_order, item_id
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, shared_items, task_files
from evomerge.evaluators.loading import load_task
from evomerge.evaluators.losses import question_losses
from evomerge.evaluators.margins import smooth_values
from evomerge.evaluators.packed import Layout, Request, answer
from evomerge.evaluators.packing import choose_layout
from evomerge.evaluators.questions import has_choices, loss_directions, questions, smooth_signs
from evomerge.evaluators.requests import (
    Recorder,
    Requests,
    language_model,
    lm_eval_answers,
    lm_eval_likelihoods,
    needs_greedy,
    packed_block,
    reference_requests,
    remember_fields,
)
from evomerge.evaluators.resampling import resampled_error
from evomerge.evaluators.results_file import FEWSHOT_SEED
from evomerge.evaluators.task_files import GENERATION_METRICS, TaskFile, cannot_load
from evomerge.objectives.scores import SPLITS, Metric, Scores, Split, mean_metric

if TYPE_CHECKING:
    import torch

    from evomerge.evaluators.evaluator import Subject

PROBED_ITEMS = 2


@dataclass
class _Split:
    """One split's task and items; items stand in the fixed order."""

    task: Any
    docs: list[Any]
    order: list[int]
    ids: tuple[str, ...]


class LmEvalTasks:
    """The evaluator of an `lm_eval` declaration. Not thread-safe; keep one per process.

    `generator` makes what answers generation tasks.
    """

    def __init__(
        self, declaration: LmEvalDeclaration, generator: GeneratorFactory = live_generator
    ) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.declaration, self.generator = declaration, generator
        self._files = task_files(declaration)
        self._splits: dict[Split, _Split] = {}
        self._requests: dict[Split, Requests] = {}
        self._layouts: dict[tuple[Any, ...], Layout | None] = {}
        if any(task.local_item_ids() is None for task in self._files.values()):
            self._check_disjoint()

    @property
    def name(self) -> str:
        """Prefix of the metrics."""
        return self.declaration.name

    @property
    def metrics(self) -> tuple[str, ...]:
        """Full metric names."""
        return self.declaration.metric_names

    @property
    def _names(self) -> dict[str, str]:
        """Full metric name to the task's own, without a filter."""
        plain = [metric.partition(",")[0] for metric in self.declaration.metrics]
        return dict(zip(self.metrics, plain, strict=True))

    def item_count(self, split: Split) -> int:
        """Number of items of a split."""
        return len(self.item_ids(split))

    def item_ids(self, split: Split) -> tuple[str, ...]:
        """Content hash of each item, in the fixed order."""
        return self._split(split).ids

    @property
    def block_size(self) -> int:
        """Items of a block."""
        return self.declaration.block_size

    def evaluate(self, subject: Subject, split: Split, blocks: Sequence[int] | None = None) -> Scores:
        """Score a model on a split, or on some of its blocks; see `Evaluator.evaluate`."""
        scoring = self.by_block(subject, split, blocks)
        while True:
            try:
                next(scoring)
            except StopIteration as end:
                scores: Scores = end.value
                return scores

    def by_block(
        self, subject: Subject, split: Split, blocks: Sequence[int] | None = None
    ) -> Generator[Mapping[str, np.ndarray], None, Scores]:
        """As `evaluate`, with a pause between blocks; see `BlockEvaluator.by_block`."""
        loaded = self._split(split)
        size = self.declaration.block_size
        chosen = chosen_blocks(blocks, -(-len(loaded.ids) // size))
        must_write(subject, self.declaration, encoder=True)
        lm = language_model(HFLM, subject)
        requests = self._requests_for(split, loaded, subject)
        probes = [_probe(subject, item[0]) for item in requests.items[:PROBED_ITEMS]]
        check_logits(subject.model, subject.tokenizer, probes)
        writes = loaded.task.OUTPUT_TYPE == "generate_until"
        scored = requests.references if writes else requests
        layout = None if scored is None else self._layout(subject, lm, split, scored)
        signs = self._signs(loaded)
        smooth: dict[str, list[float]] = defaultdict(list)
        values: dict[str, list[Any]] = {
            metric: []
            for metric in (*self.declaration.metrics, *(GENERATION_METRICS if writes else ()))
        }
        for block in chosen:
            part = slice(block * size, (block + 1) * size)
            items = requests.items[part]
            flat = [instance for item in items for instance in item]
            if writes:
                answers = self._generate(subject, items, values)
            else:
                greedy = needs_greedy(loaded.task)
                answers = self._answers(subject, lm, requests, layout, part, greedy)
            refuse_nan(answers)
            self._collect(loaded.task, items, flat, answers, values)
            if scored is not None and signs:
                if writes:
                    answers = self._answers(subject, lm, scored, layout, part, False)
                self._add_smooth(loaded.task, scored, part, answers, signs, smooth)
            if block != chosen[-1]:
                yield Scores({}, self._items(loaded.task, values), self._named(smooth)).arrays()
        return self._scores(loaded.task, values).with_smooth(self._named(smooth))

    def writes(self, split: Split) -> bool:
        """See `Writer.writes`."""
        return bool(self._split(split).task.OUTPUT_TYPE == "generate_until")

    def loss_directions(self, split: Split) -> dict[str, bool]:
        """See `Differentiable.loss_directions`."""
        loaded, names = self._split(split), self._names
        found = loss_directions(
            loaded.task, loaded.docs, list(names.values()), self.declaration.learn_targets
        )
        return {metric: found[name] for metric, name in names.items() if name in found}

    def has_choices(self, split: Split) -> bool:
        """See `Differentiable.has_choices`."""
        return has_choices(self._split(split).task)

    def losses(
        self, subject: Subject, split: Split, items: Sequence[int], *, entropy: bool = False
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """See `Differentiable.losses`."""
        loaded = self._split(split)
        lm = language_model(HFLM, subject)
        requests = self._requests_for(split, loaded, subject)
        chosen_items(items, len(loaded.ids))
        chat = self.declaration.apply_chat_template
        try:
            asked, tokens = questions(
                loaded.task, requests, items, subject, lm.max_length, chat,
                entropy=entropy, learn_targets=self.declaration.learn_targets,
            )  # fmt: skip
            layout = self._fitting(subject, lm, split, tokens) if tokens else "rows"
            if layout is None:
                raise ValueError(f"the packed scorer does not fit {type(subject.model).__name__}")
        except ValueError as error:
            wrong = "there is no differentiable loss"
            problem = self.declaration.fault(f"tasks.{split}", "E148", wrong, str(error))
            raise ConfigError(problem) from error
        for places, found in question_losses(subject, asked, layout, lm.max_length, entropy=entropy):
            yield tuple(items[place] for place in places), found

    def _split(self, split: Split) -> _Split:
        if split not in self._splits:
            task = self._load(split, self._files[split])
            docs = list(task.eval_docs)
            ids = [item_id(doc) for doc in docs]
            order = fixed_order(ids)
            self._splits[split] = _Split(task, docs, order, tuple(ids[i] for i in order))
        return self._splits[split]

    def _load(self, split: Split, file: TaskFile) -> Any:
        try:
            task = load_task(file, self.declaration.folder)
        except Exception as error:
            # Whatever lm-eval, datasets or a template raises here is a fault of the task file.
            code, wrong, found, todo = cannot_load(file, error)
            problem = self.declaration.fault(f"tasks.{split}", code, wrong, found, todo)
            raise ConfigError(problem) from error
        if self.declaration.num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=self.declaration.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        if self.declaration.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", dict(self.declaration.gen_kwargs), update=True)
        return task

    def _check_disjoint(self) -> None:
        ids = {split: self.item_ids(split) for split in SPLITS}
        if problems := [*shared_items(self.declaration, ids)]:
            raise ConfigError(problems)

    def _requests_for(self, split: Split, loaded: _Split, subject: Subject) -> Requests:
        kept = self._requests.get(split)
        if kept is not None and kept.tokenizer is subject.tokenizer:
            return kept
        recorder = language_model(Recorder, subject)
        task, chat = loaded.task, self.declaration.apply_chat_template
        if chat:
            must_chat(subject, self.declaration, self.declaration.system_instruction)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        with quiet():
            task.build_all_requests(
                apply_chat_template=chat,
                chat_template=recorder.apply_chat_template if chat else None,
                system_instruction=self.declaration.system_instruction,
                fewshot_as_multiturn=self.declaration.fewshot_as_multiturn,
            )
        by_doc: dict[int, list[Instance]] = defaultdict(list)
        for instance in task.instances:
            by_doc[instance.doc_id].append(instance)
        items = [sorted(by_doc[doc], key=lambda instance: instance.idx) for doc in loaded.order]
        if isinstance(task, ConfigurableTask):
            remember_fields(task, [item[0].doc for item in items])
        tokens = None
        if all(instance.request_type == "loglikelihood" for instance in task.instances):
            tokens = recorder.tokenised(items)
        found = Requests(subject.tokenizer, items, tokens)
        if task.OUTPUT_TYPE == "generate_until" and self._signs(loaded):
            found.references = reference_requests(task, items, recorder, chat)
        self._requests[split] = found
        return self._requests[split]

    def _answers(
        self,
        subject: Subject,
        lm: Any,
        requests: Requests,
        layout: Layout | None,
        part: slice,
        greedy: bool,
    ) -> list[list[Any]]:
        """Replies to the log-likelihood requests of some items, one or more of each."""
        if layout is not None:
            packed = packed_block(requests, layout, subject, lm.max_length, part)
            found = answer(subject.model, packed, greedy=greedy)
            return [[(each.loglikelihood, each.greedy)] for each in found]
        if requests.tokens is None:
            return lm_eval_answers(lm, [one for item in requests.items[part] for one in item])
        tokens = [request for item in requests.tokens[part] for request in item]
        return [[reply] for reply in lm_eval_likelihoods(lm, tokens)]

    def _layout(self, subject: Subject, lm: Any, split: Split, requests: Requests) -> Layout | None:
        """How requests are packed for this kind of model; None: they go through lm-eval's own class."""
        if self.declaration.scorer == "lm_eval" or requests.tokens is None:
            return None
        layout = self._fitting(subject, lm, split, requests.tokens)
        if layout is None and self.declaration.scorer == "packed":
            wrong = f"the packed scorer does not fit {type(subject.model).__name__}"
            raise EnvironmentFault(self.declaration.fault("scorer", "E141", wrong, "", "use `auto`"))
        return layout

    def _fitting(
        self, subject: Subject, lm: Any, split: Split, tokens: Sequence[Sequence[Request]]
    ) -> Layout | None:
        model = subject.model
        kind = (split, type(model), model.config._attn_implementation, model.device.type)
        if kind not in self._layouts:
            self._layouts[kind] = choose_layout(model, tokens, lm.max_length)
        return self._layouts[kind]

    def _generate(
        self, subject: Subject, items: Sequence[Sequence[Instance]], values: Mapping[str, list[Any]]
    ) -> list[list[Any]]:
        """Texts of all requests, `repeats` of each; what else is known of them goes into `values`."""
        flat = [instance for item in items for instance in item]
        repeated = [instance.args for instance in flat for _ in range(instance.repeats or 1)]
        with quiet():
            replies = iter(self.generator(subject).generate(repeated))
        answers = [[next(replies) for _ in range(instance.repeats or 1)] for instance in flat]
        by_request = iter(answers)
        for item in items:
            written: list[Generation] = [each for _ in item for each in next(by_request)]
            values["tokens"].append(sum(each.tokens for each in written) / len(written))
            values["looped"].append(sum(each.looped for each in written) / len(written))
        return [[each.text for each in written] for written in answers]

    def _collect(
        self,
        task: Any,
        items: Sequence[Sequence[Instance]],
        flat: Sequence[Instance],
        answers: Sequence[list[Any]],
        values: Mapping[str, list[Any]],
    ) -> None:
        for instance, replies in zip(flat, answers, strict=True):
            instance.resps = replies
        # `Task.apply_filters` would want answers to every request of the task, also outside the blocks.
        for ensemble in task._filters:
            ensemble.apply(list(flat))
        only = task._filters[0].name
        wanted_metrics = {m: kept for m, kept in values.items() if m not in GENERATION_METRICS}
        for chosen in {metric.partition(",")[2] or only for metric in wanted_metrics}:
            for item in items:
                results = [instance.filtered_resps[chosen] for instance in item]
                measured = task.process_results(item[0].doc, results)
                for metric, kept in wanted_metrics.items():
                    name, _, wanted = metric.partition(",")
                    if (wanted or only) == chosen:
                        kept.append(measured[name])
        for instance in flat:
            instance.resps, instance.filtered_resps = [], {}

    def _signs(self, loaded: _Split) -> dict[str, float]:
        """As `smooth_signs`; empty where no smooth values are wanted."""
        parts = (loaded.task, loaded.docs, list(self._names.values()), self.declaration.learn_targets)
        return smooth_signs(*parts) if self.declaration.smooth else {}

    def _add_smooth(
        self,
        task: Any,
        requests: Requests,
        part: slice,
        answers: Sequence[list[Any]],
        signs: Mapping[str, float],
        smooth: Mapping[str, list[float]],
    ) -> None:
        replies = iter(answers)
        for place, instances in enumerate(requests.items[part], part.start):
            own = [next(replies)[0] for _ in instances]
            lengths = [len(r.continuation) for r in requests.tokens[place]] if requests.tokens else []
            found = smooth_values(task, instances[0].doc, own, lengths, signs)
            for metric in self.declaration.metrics:
                if (name := metric.partition(",")[0]) in found:
                    smooth[metric].append(found[name])

    def _named(self, smooth: Mapping[str, list[float]]) -> dict[str, np.ndarray]:
        return {f"{self.name}.{m}": np.asarray(v, dtype=np.float64) for m, v in smooth.items()}

    def _items(self, task: Any, values: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
        """Per-item results of the metrics that are means over items."""
        return {
            f"{self.name}.{metric}": np.asarray(results, dtype=np.float64)
            for metric, results in values.items()
            if task.aggregation().get(metric.partition(",")[0], mean) is mean
        }

    def _scores(self, task: Any, values: Mapping[str, list[Any]]) -> Scores:
        metrics: dict[str, Metric] = {}
        items = self._items(task, values)
        for metric, results in values.items():
            name = f"{self.name}.{metric}"
            aggregate = task.aggregation().get(metric.partition(",")[0], mean)
            value = float(aggregate(results))
            if name in items:
                metrics[name] = Metric(value, mean_metric(items[name]).stderr, len(results))
            else:
                metrics[name] = Metric(value, resampled_error(aggregate, results), len(results))
        return Scores(metrics, items)


def _probe(subject: Subject, instance: Instance) -> list[int]:
    return list(subject.tokenizer.encode(str(instance.args[0])))
