"""Steps 4 to 7: scoring and generating against lm-eval's own model class, a whole candidate, and memory."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from dataclasses import replace
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from benchmarks.gpu.bed import Bed, done
from benchmarks.gpu.report import Report
from evomerge.evaluators.continuous import live_generator

METRIC = "bench.acc"
STOCK_SIZES = (16, 64, 128)


def scoring(bed: Bed, report: Report) -> None:
    """Step 4: four-choice items a second, ours over lm-eval's `hf` at its best batch size."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    engine = bed.worker()._loaded()
    subject = engine._subject(engine.live().model, bed.recipe(0))
    (evaluator,) = engine.evaluators
    items = evaluator.item_count("search")
    found: list[Any] = []
    score = lambda _: found.append(evaluator.evaluate(subject, "search"))  # noqa: E731
    score(0)
    ours = bed.least(score, 2)
    accuracy = found[-1].metrics[METRIC].value
    report.say(f"ours, batch {subject.batch_size}: {items / ours:.1f} items/s, accuracy {accuracy:.4f}",
               ours=items / ours, accuracy=accuracy)  # fmt: skip
    best = 0.0
    for size in (8,) if bed.tiny else STOCK_SIZES:
        took, theirs = _stock(bed, subject, size)
        best = max(best, items / took)
        report.say(
            f"lm-eval's hf, batch {size}: {items / took:.1f} items/s, accuracy {theirs:.4f} (apart by "
            f"{abs(theirs - accuracy):.4f}); ours over its best "
            f"{report.asked(items / ours / best, 2.5, least=True)}",
            **{f"stock_{size}": items / took, f"apart_{size}": abs(theirs - accuracy)},
            ratio=items / ours / best,
        )


def _stock(bed: Bed, subject: Any, size: int) -> tuple[float, float]:
    """Seconds and accuracy of `simple_evaluate`."""
    lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=size)
    found: list[Any] = []

    def once() -> None:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(bed.written):
            manager = TaskManager(include_path=".", include_defaults=False)
            found.append(
                simple_evaluate(model=lm, tasks=["bench_search"], task_manager=manager, bootstrap_iters=0,
                                log_samples=False)
            )  # fmt: skip

    return bed.seconds(once), float(found[0]["results"]["bench_search"]["acc,none"])


def generating(bed: Bed, report: Report) -> None:
    """Step 5: tokens of written answers a second, ours over lm-eval's `hf`."""
    engine = bed.worker()._loaded()
    subject = engine._subject(engine.live().model, bed.recipe(0))
    count, cap = (6, 24) if bed.tiny else (200, 128)
    settings = {"until": ["</s>", "w17 "], "max_gen_toks": cap, "do_sample": False}
    requests = [
        (" ".join(f"w{(31 * n + k) % 4000}" for k in range(20 + n % 40)), settings)
        for n in range(count)
    ]
    generator = live_generator(subject)
    answers = generator.generate(requests[:4])
    ours = bed.seconds(lambda: answers.extend(generator.generate(requests)))
    answers = answers[4:]
    tokens = sum(answer.tokens for answer in answers)
    looped = sum(answer.looped for answer in answers)
    report.say(
        f"ours: {tokens / ours:.0f} tokens/s, {count} answers of {tokens / count:.1f} tokens, {ours:.2f} s; "
        f"{looped} loop",
        ours=tokens / ours,
        looped=looped,
    )
    paged = live_generator(replace(subject, generation="continuous"))
    paged.generate(requests[:4])
    written: list[Any] = []
    took = bed.seconds(lambda: written.extend(paged.generate(requests)))
    same = sum(one.text == other.text for one, other in zip(answers, written, strict=True))
    report.say(
        f"continuous batching: {took:.2f} s for the same, {same} of {count} texts equal",
        continuous=tokens / took,
        continuous_equal=same,
    )
    lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size)
    instances = [Instance("generate_until", {}, request, n) for n, request in enumerate(requests)]
    texts: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()):
        theirs = bed.seconds(lambda: texts.extend(lm.generate_until(instances, disable_tqdm=True)))
    same = sum(answer.text == text for answer, text in zip(answers, texts, strict=True))
    report.say(
        f"lm-eval's hf: {theirs:.2f} s for the same, {same} of {count} texts equal; ours over it "
        f"{report.asked(theirs / ours, 3, least=True)}, continuous {theirs / took:.2f}",
        ratio=theirs / ours,
        continuous_ratio=theirs / took,
        equal_texts=same,
    )


def candidate(bed: Bed, report: Report) -> None:
    """Step 6: the share of a whole candidate that is spent outside the forward passes."""
    worker = bed.worker()
    model = worker._loaded().live().model
    state = {"began": 0.0, "forward": 0.0}

    def enter(*_: object) -> None:
        bed.wait()
        state["began"] = time.perf_counter()

    def leave(*_: object) -> None:
        bed.wait()
        state["forward"] += time.perf_counter() - state["began"]

    handles = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
    try:
        shares = []
        for number in range(1, 3 if bed.tiny else 4):
            state["forward"] = 0.0
            began = time.perf_counter()
            result = done(worker.run(bed.job("evaluate", number)))
            bed.wait()
            took = time.perf_counter() - began
            shares.append(100 * (1 - state["forward"] / took))
            merge = result.seconds["merge"]
        report.say(
            f"{took:.3f} s, of which {merge:.3f} s merging; outside the forward passes (%) "
            f"{report.asked(min(shares), 5)}",
            share_percent=min(shares), seconds=took, merge_seconds=merge,
        )  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


def memory(bed: Bed, report: Report) -> None:
    """Step 7: peak device bytes of a candidate over the models held plus one batch."""
    worker = bed.worker()
    engine = worker._loaded()
    live = engine.live()
    subject = engine._subject(live.model, bed.recipe(0))
    done(worker.run(bed.job("evaluate", 7)))
    placed = live.scratch(next(live.model.parameters()).device).weights
    parts = [*live.buffers.values(), *placed._resident.values()]
    models = sum(each.nbytes for each in parts if each.device.type != "cpu")
    before = bed.allocated()
    batch = bed.peak(lambda: [each.evaluate(subject, "search") for each in engine.evaluators]) - before
    peak = bed.peak(lambda: done(worker.run(bed.job("evaluate", 8))))
    if bed.device == "cpu":
        report.say("no device memory to look at on a CPU")
        return
    report.say(
        f"peak {peak / 1e9:.2f} GB; models {models / 1e9:.2f} (experts {placed.placement}), at rest "
        f"{before / 1e9:.2f}, a batch {batch / 1e9:.2f}: {report.asked(peak / (models + batch), 1.1)}",
        ratio=peak / (models + batch), peak=peak, models=models, at_rest=before, batch=batch,
    )  # fmt: skip
    reserved = torch.cuda.max_memory_reserved()
    report.say(f"held by torch's allocator at most {reserved / 1e9:.2f} GB", reserved=reserved)
