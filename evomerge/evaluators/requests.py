"""The requests of a split for one tokenizer: lm-eval's instances, its tokens, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.evaluators.data import quiet
from evomerge.evaluators.judging import judged_by_lm_eval
from evomerge.evaluators.margins import reference_answers
from evomerge.evaluators.packed import Layout, PackedBlock, Request, pack_for

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject

REFERENCES = 8
"""Most reference answers of an item that are scored; data sets list dozens of spellings."""


@dataclass
class Requests:
    """The requests of one split for one tokenizer.

    `items` holds lm-eval's instances of each item; `tokens` the same, tokenised as lm-eval does it;
    `packed` the batches made of them, by what they depend on. `references` are those for the reference
    answers of items whose own requests write.
    """

    tokenizer: Any
    items: list[list[Instance]]
    tokens: list[list[Request]] | None
    packed: dict[tuple[Any, ...], PackedBlock] = field(default_factory=dict)
    references: Requests | None = None


def language_model(kind: type[Any], subject: Subject) -> Any:
    """lm-eval's wrapper around the live model: it keeps a reference and copies nothing."""
    return kind(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size)


class Recorder(HFLM):  # type: ignore[misc]
    """Tokenises log-likelihood requests as lm-eval does, and keeps them instead of running a model."""

    recorded: list[Request]

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        self.recorded = [Request(tuple(context), tuple(rest)) for _, context, rest in requests]
        return [(0.0, False)] * len(requests)

    def tokenised(self, items: Sequence[Sequence[Instance]]) -> list[list[Request]]:
        """The log-likelihood requests of each item in tokens."""
        self.loglikelihood([instance for item in items for instance in item], disable_tqdm=True)
        flat = iter(self.recorded)
        return [[next(flat) for _ in item] for item in items]


def reference_requests(
    task: Any, items: Sequence[Sequence[Instance]], recorder: Recorder, chat: bool
) -> Requests | None:
    """Requests for the reference answers of a task that writes, behind the prompts it writes to.

    None where an item has no reference answer, or a prompt that is no text. A reference longer than half of
    what the model reads at once is judged by its beginning.
    """
    instances = []
    for item in items:
        prompt = item[0].args[0]
        texts = reference_answers(task, item[0].doc)[:REFERENCES] if isinstance(prompt, str) else []
        if not texts:
            return None
        # As lm-eval joins a choice to its question; after a chat template an answer begins by itself.
        between = "" if chat and not task.config.gen_prefix else task.config.target_delimiter
        arguments = [(prompt, f"{between}{text}") for text in texts]
        instances.append(
            [Instance("loglikelihood", item[0].doc, each, n) for n, each in enumerate(arguments)]
        )
    most = max(1, recorder.max_length // 2)
    tokens = [
        [replace(request, continuation=request.continuation[:most]) for request in requests]
        for requests in recorder.tokenised(instances)
    ]
    if not all(request.continuation for requests in tokens for request in requests):
        return None
    return Requests(recorder.tokenizer, instances, tokens)


def packed_block(
    requests: Requests, layout: Layout, subject: Subject, max_length: int, part: slice
) -> PackedBlock:
    """The batches of some items, made once."""
    assert requests.tokens is not None
    key = (layout, part.start, part.stop, subject.batch_size, max_length, str(subject.model.device))
    if key not in requests.packed:
        requests.packed[key] = pack_for(
            subject.model,
            requests.tokens[part],
            layout,
            batch_size=subject.batch_size,
            max_length=max_length,
        )
    return requests.packed[key]


def lm_eval_answers(lm: Any, instances: Sequence[Instance]) -> list[list[Any]]:
    """lm-eval's replies to each request, `repeats` of them."""
    repeated = [instance for instance in instances for _ in range(instance.repeats or 1)]
    with quiet():
        replies = iter(getattr(lm, instances[0].request_type)(repeated, disable_tqdm=True))
    return [[next(replies) for _ in range(instance.repeats or 1)] for instance in instances]


def lm_eval_likelihoods(lm: Any, requests: Sequence[Request]) -> list[tuple[float, bool]]:
    """lm-eval's replies to requests in tokens."""
    asked = [(("", ""), list(each.context), list(each.continuation)) for each in requests]
    with quiet():
        found: list[tuple[float, bool]] = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    return found


def needs_greedy(task: Any) -> bool:
    """Whether scoring may look at the greedy flag; multiple choice does for `exact_match` only."""
    return not (
        judged_by_lm_eval(task)
        and task.OUTPUT_TYPE == "multiple_choice"
        and "exact_match" not in task.aggregation()
    )


def remember_fields(task: Any, docs: Sequence[Any]) -> None:
    """Make `doc_to_text`, `doc_to_choice` and `doc_to_target` of `docs` known after their first use.

    lm-eval compiles their templates from source at every call, several times per item and candidate.
    """
    held = {id(doc) for doc in docs}

    def remember(method: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[int, Any] = {}

        def remembered(doc: Any, *override: Any) -> Any:
            if override or id(doc) not in held:
                return method(doc, *override)
            if id(doc) not in known:
                known[id(doc)] = method(doc)
            return known[id(doc)]

        return remembered

    for name in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        setattr(task, name, remember(getattr(type(task), name).__get__(task)))
