"""Worker: a plain object that keeps one live model and scores merges in it.

What runs on every worker, whichever pool holds it. It knows nothing of pools, ledgers or optimizers.
A worker never raises across the seam: every fault comes back as a `JobResult`.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evomerge.errors import CandidateError, CheckpointError, EvomergeError, Problem
from evomerge.evaluators.racing import Race
from evomerge.objectives.scores import SPLITS, Scores, Split
from evomerge.recipe.recipe import UNION
from evomerge.run.job import Job, JobResult, WorkerSetup

if TYPE_CHECKING:
    from evomerge.checkpoint.adapter import AdapterFolder
    from evomerge.checkpoint.folder import CheckpointFolder
    from evomerge.evaluators.evaluator import Evaluator
    from evomerge.evaluators.judge import Beaten
    from evomerge.merge.materialize import LiveModel


class Worker:
    """Holds what one campaign needs, loaded when the first job asks for it."""

    def __init__(self, setup: WorkerSetup) -> None:
        offline()
        self.setup = setup
        self._engine: _Engine | None = None

    def run(self, job: Job) -> JobResult:
        """Do a job; any fault becomes a failed result."""
        try:
            engine = self._loaded()
            if job.kind == "prepare":
                return engine.prepare(job)
            return engine.evaluate(job)
        except CandidateError as error:
            return JobResult(job.id, "failed", error.kind, str(error))
        except EvomergeError as error:
            problems = [problem.__dict__ for problem in error.problems]
            data = {"problems": problems}
            return JobResult(job.id, "fault", type(error).__name__, str(error), data=data)
        except Exception as error:  # the seam: a candidate must not take the worker down
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            message = f"{type(error).__name__}: {error} ({place})"
            if _is_out_of_memory(error):
                # Maybe only because of what this process holds: worth one more try in a fresh one.
                return JobResult(job.id, "lost", "out_of_memory", message)
            return JobResult(job.id, "failed", "error", message)

    def _loaded(self) -> _Engine:
        if self._engine is None:
            self._engine = _Engine(self.setup)
        return self._engine


def offline() -> None:
    """Let no library look for a hub: data and models were resolved before."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the host or (without an import of torch) a device has no memory left."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class _Engine:
    """The loaded half of a worker: sources, live model, evaluators."""

    def __init__(self, setup: WorkerSetup) -> None:
        import torch

        from evomerge.checkpoint.digest import WeightFiles
        from evomerge.checkpoint.folder import open_folder, open_source
        from evomerge.checkpoint.reader import open_readers
        from evomerge.merge.statistics.weights import WeightStatistics

        torch.set_num_threads(setup.threads)
        self.setup = setup
        base = open_folder(setup.sources["base"], "base")
        self.folders: dict[str, CheckpointFolder | AdapterFolder] = {"base": base}
        for name, path in setup.sources.items():
            if name != "base":
                self.folders[name] = open_source(path, name, base)
        self.stored = dict(self.folders)
        self.readers = open_readers(self.folders)
        cache = Path(setup.cache)
        self.weights = WeightFiles(self.folders, cache)
        self._tokenizer_folder = base.path
        if setup.tokenizer is not None:
            self._align(setup.tokenizer)
            # Statistics of aligned rows are not those of the files alone.
            cache = cache / f"vocabulary-{setup.tokenizer}"
        self.statistics = WeightStatistics(self.folders, directory=cache, readers=self.readers)
        files = [Path(path) for path in setup.evaluators]
        self.evaluators = open_evaluators(files, allow_code=setup.allow_task_code)
        self._measures_distance = any(reads_distance(each) for each in self.evaluators)
        self._live: LiveModel | None = None
        self._tokenizer: Any = None

    def _align(self, tokenizer: str) -> None:
        """Bring all sources into one vocabulary, whose tokenizer evaluators then use."""
        from evomerge.checkpoint.aligned import align_sources
        from evomerge.checkpoint.tokenizer import union_tokenizer

        target = None if tokenizer == UNION else tokenizer
        self.folders, self.readers, alignment = align_sources(
            self.folders, self.readers, "base", target
        )
        if target is not None:
            self._tokenizer_folder = self.folders[target].path
            return
        paths = [folder.path for _, folder in sorted(self.folders.items())]
        self._tokenizer_folder = union_tokenizer(
            Path(self.setup.cache) / "union-tokenizer",
            self.base.path,
            [path for path in paths if path != self.base.path],
            alignment.vocabulary.ids,
        )

    @property
    def base(self) -> CheckpointFolder:
        return cast("CheckpointFolder", self.folders["base"])

    def live(self) -> LiveModel:
        """The resident model, built once."""
        from evomerge.merge.device_map import visible_devices
        from evomerge.merge.materialize import LiveModel
        from evomerge.merge.passes.compiled import Kernels
        from evomerge.merge.passes.placement import place_experts

        if self._live is None:
            dtype = _torch_dtype(self.setup.dtype)
            elements = sum(header.elements for header in self.base.tensors.values())
            devices = visible_devices(self.setup.device, self.setup.devices)
            kernels = Kernels(
                Path(self.setup.cache) / "kernels",
                self.setup.kernels,
                float(elements) * self.setup.candidates,
                self.setup.threads,
                devices[0],
            )
            self._live = LiveModel.load(
                self.base,
                dtype=dtype,
                device=devices[0],
                spread=devices if len(devices) > 1 else (),
                kernels=kernels,
                ranks=self.statistics.ranks,
                placement=place_experts(
                    self.setup.experts,
                    devices,
                    self._stored_bytes(),
                    elements * dtype.itemsize,
                ),
            )
        return self._live

    def _stored_bytes(self) -> int:
        """Bytes of base and experts; adapters are small beside them."""
        from evomerge.checkpoint.folder import CheckpointFolder

        full = [f for f in self.folders.values() if isinstance(f, CheckpointFolder)]
        return sum(header.nbytes for folder in full for header in folder.tensors.values())

    def tokenizer(self) -> Any:
        """The tokenizer of merges, the base's or another's, loaded once."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._tokenizer_folder)
        return self._tokenizer

    def prepare(self, job: Job) -> JobResult:
        """Look at all weights once: digests, finiteness, zero task vectors; and index the items."""
        from evomerge.campaign.prepared import layout_to_json
        from evomerge.checkpoint.layout import layout_of
        from evomerge.evaluators.evaluator import BlockEvaluator
        from evomerge.merge.statistics.prepare import prepare_statistics

        start = time.perf_counter()
        data: dict[str, Any] = {
            "checkpoints": {name: self.weights.read(name) for name in self.folders},
            "storage": self.setup.storage,
            "problems": [],
            "warnings": [],
        }
        self.statistics.know(data["checkpoints"])
        try:
            found = prepare_statistics(
                self.statistics, self.stored, "base", self.setup.methods, self.setup.trims
            )
        except CheckpointError as error:
            data["problems"] = [problem.__dict__ for problem in error.problems]
            return JobResult(job.id, "ok", data=data)
        evaluators = {
            evaluator.name: {
                "digest": evaluator.declaration.digest(),
                "metrics": list(evaluator.metrics),
                "items": {split: evaluator.item_count(split) for split in SPLITS},
                "deterministic": evaluator.declaration.deterministic,
                "block_size": evaluator.block_size if isinstance(evaluator, BlockEvaluator) else None,
            }
            for evaluator in self.evaluators
        }
        layout = replace(layout_of(self.base), active=found.active)
        data["layout"] = layout_to_json(layout)
        data["evaluators"] = evaluators
        data["task_vectors"] = dict(found.task_vectors)
        data["warnings"] = [problem.__dict__ for problem in found.warnings]
        return JobResult(job.id, "ok", data=data, seconds={"prepare": time.perf_counter() - start})

    def evaluate(self, job: Job) -> JobResult:
        """Merge into the live model and score it."""
        from evomerge.evaluators.judge import Beaten
        from evomerge.merge.plan import make_plan
        from evomerge.recipe.json_form import recipe_from_json

        assert job.recipe is not None
        start = time.perf_counter()
        recipe = recipe_from_json(dict(job.recipe))
        known = recipe.checkpoints.items()
        digests = {name: source.digest for name, source in known if source.digest}
        self.weights.check(digests)
        self.statistics.know(digests)
        live = self.live()
        loaded = time.perf_counter()
        plan = make_plan(recipe, self.folders, self.statistics)
        report = live.materialize(plan, self.readers, self._measures_distance)
        # Again: the files are mapped, and may have been written to while they were read.
        self.weights.check(digests)
        merged = time.perf_counter()
        statistics = {"tensors_written": float(report.tensors_written)}
        if report.l1 is not None and report.l2 is not None:
            statistics |= {"l1": report.l1, "l2": report.l2}
        subject_statistics: Mapping[str, float] = statistics
        found = self._score(live.model, recipe, subject_statistics, job.split, job.race)
        scores = found.scores if isinstance(found, Beaten) else found
        data: dict[str, Any] = {
            "metrics": {name: m.to_json() for name, m in scores.metrics.items()},
            "statistics": statistics,
        }
        if isinstance(found, Beaten):
            data |= {"beaten_by": found.by, "seen": dict(found.seen)}
        done = time.perf_counter()
        return JobResult(
            job.id,
            "raced" if isinstance(found, Beaten) else "ok",
            data=data,
            items=scores.items,
            seconds={
                "load": loaded - start,
                "merge": merged - loaded,
                "evaluate": done - merged,
            },
        )

    def _score(
        self,
        model: Any,
        recipe: Any,
        statistics: Mapping[str, float],
        split: Split,
        race: Race | None,
    ) -> Scores | Beaten:
        from evomerge.evaluators.evaluator import Subject
        from evomerge.evaluators.judge import race_subject, score_subject

        subject = Subject(
            model=model,
            tokenizer=self.tokenizer(),
            recipe=recipe,
            statistics=statistics,
            device=self.setup.device,
            batch_size=self.setup.batch_size,
        )
        if race is None:
            return score_subject(subject, self.evaluators, split)
        return race_subject(subject, self.evaluators, split, race)


def open_evaluators(files: Sequence[Path], *, allow_code: bool = False) -> list[Evaluator]:
    """The evaluators of some files, their items and requests built; loads lm-eval.

    `allow_code` lets task files run the Python they name.

    Raises:
        ConfigError: if an evaluator has faults.
    """
    from evomerge.evaluators.evaluator import open_evaluator
    from evomerge.evaluators.kinds import load_declaration

    offline()
    return [open_evaluator(load_declaration(file), allow_code=allow_code) for file in files]


def reads_distance(evaluator: Evaluator) -> bool:
    """Whether it needs the distance of the weights to the base."""
    return bool({"l1", "l2"} & {*evaluator.declaration.reads})


def distance_statistics(
    evaluators: Sequence[Evaluator], folder: Path, base: Path, dtype: str
) -> dict[str, float]:
    """`l1` and `l2` between two checkpoint folders, if an evaluator needs them.

    Raises:
        CheckpointError: if a folder cannot be read, or their tensors differ.
    """
    from evomerge.checkpoint.folder import open_folder
    from evomerge.merge.materialize import checkpoint_distance

    if not any(map(reads_distance, evaluators)):
        return {}
    l1, l2 = checkpoint_distance(open_folder(folder, folder.name), open_folder(base, "base"), dtype)
    return {"l1": l1, "l2": l2}


def score_checkpoint(
    folder: Path,
    evaluator: Path,
    *,
    split: Split,
    dtype: str,
    batch_size: int,
    device: str,
    base: Path | None = None,
    allow_task_code: bool = False,
) -> Scores:
    """Score one checkpoint folder with one evaluator by the worker's own code.

    `base` is the folder of the model that distances are measured from; `allow_task_code` lets task files run
    the Python they name.

    Raises:
        CheckpointError: if the folder cannot be read.
        ConfigError: if the evaluator has faults.
        CandidateError: if the model's outputs or its scores are not finite.
        UsageError: if the evaluator measures a distance and there is no `base`.
    """
    from evomerge.checkpoint.folder import open_folder
    from evomerge.evaluators.evaluator import Subject
    from evomerge.evaluators.judge import score_subject

    evaluators = open_evaluators([evaluator], allow_code=allow_task_code)
    open_folder(folder, folder.name)
    statistics = {} if base is None else distance_statistics(evaluators, folder, base, dtype)
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=_torch_dtype(dtype), trust_remote_code=False
    )
    subject = Subject(
        model=model.to(device).eval(),
        tokenizer=load_tokenizer(folder),
        statistics=statistics,
        device=device,
        batch_size=batch_size,
    )
    return score_subject(subject, evaluators, split)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        CheckpointError: E234, if it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise CheckpointError(
            Problem("E234", "the tokenizer cannot be loaded", found, file=str(folder))
        ) from error


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
