"""Engine: the loaded half of a worker, which merges into one live model and scores it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from transformers import PreTrainedModel

from evomerge.campaign.prepared import layout_record
from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.aligned import align_sources
from evomerge.checkpoint.digest import WeightFiles
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.model_form import with_head_of, with_heads, with_positions
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import open_readers
from evomerge.checkpoint.text_tower import with_text_towers
from evomerge.checkpoint.tokenizer import union_tokenizer
from evomerge.evaluators.evaluator import BlockEvaluator, Evaluator, Subject
from evomerge.evaluators.judge import Beaten, race_subject, score_subject
from evomerge.evaluators.losses import Differentiable
from evomerge.evaluators.registered import install
from evomerge.ledger.events import PreparedEvaluator, PreparedEvent
from evomerge.merge.device_map import visible_devices
from evomerge.merge.ensemble import logit_ensemble
from evomerge.merge.heads import Heads
from evomerge.merge.materialize import LiveModel
from evomerge.merge.mixture.planned import live_mixture, mixture_on
from evomerge.merge.mixture.routers import Routers
from evomerge.merge.passes.compiled import Kernels
from evomerge.merge.passes.placement import place_experts
from evomerge.merge.peft_adapters import ADAPTERS_FOLDER, merge_adapters
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.slopes import Slopes
from evomerge.merge.statistics.prepare import prepare_statistics
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.objectives.scores import SPLITS, Scores
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import AS_BASE, EACH, UNION, Recipe, canonical_json, checkpoint_recipe
from evomerge.recipe.registered import install_methods
from evomerge.recipe.rows import parse_rows
from evomerge.run.generation_times import base_recipe, time_engines, writing
from evomerge.run.job import Job, JobResult, Measured, WorkerSetup
from evomerge.run.scoring import load_tokenizer, open_evaluators, reads_distance, torch_dtype
from evomerge.run.slope_measurement import measure_slope
from evomerge.search_space import ModelLayout, build_layer_paths

RESIDENT_BYTES = 4 << 30
"""Up to here all layers that a path may take are resident; beyond, as many as the longest path has."""


@dataclass(frozen=True)
class _Merged:
    """A merge as a model, since when it is there (`perf_counter`) and what it took, phase to seconds."""

    model: PreTrainedModel
    recipe: Recipe
    statistics: Mapping[str, float]
    at: float
    seconds: Mapping[str, float]


class Engine:
    """Sources, live model and evaluators of a worker, loaded."""

    def __init__(self, setup: WorkerSetup) -> None:

        torch.set_num_threads(setup.threads)
        self.setup = setup
        base = open_folder(setup.sources["base"], "base")
        self.folders: dict[str, CheckpointFolder | AdapterFolder] = {"base": base}
        for name, path in setup.sources.items():
            if name != "base":
                self.folders[name] = open_source(path, name, base)
        cache = Path(setup.cache)
        self.weights = WeightFiles(self.folders, cache)
        self.folders, self._merged = merge_adapters(
            self.folders, self.weights.digest, lambda: cache / ADAPTERS_FOLDER
        )
        self._heads = Heads(self.folders if setup.form.heads == EACH else {}, setup.storage)
        if setup.form.towers:
            self.folders = with_text_towers(self.folders)
        if setup.form.untied:
            self.folders = with_heads(self.folders)
        if setup.form.head_owner:
            self.folders = with_head_of(self.folders, setup.form.head_owner)
        self.stored = dict(self.folders)
        self.readers = open_readers(self.folders)
        self._tokenizer_folder = base.path
        if setup.form != AS_BASE:
            # Statistics of aligned rows, say, are not those of the files; arms of a study share the others.
            cache = cache / f"form-{_form_digest(setup)}"
        if setup.form.tokenizer is not None:
            self._align(setup.form.tokenizer, cache)
        if setup.form.rope:
            self.folders = with_positions(self.folders, setup.form.rope)
        self.statistics = WeightStatistics(self.folders, directory=cache, readers=self.readers)
        files = [Path(path) for path in setup.evaluators]
        install(setup.functions)
        install_methods(setup.own_methods)
        self.evaluators = open_evaluators(files, allow_code=setup.allow_task_code)
        self._measures_distance = any(reads_distance(each) for each in self.evaluators)
        self._live: LiveModel | None = None
        self._routers: Routers | None = None
        self._tokenizer: Any = None

    def _align(self, tokenizer: str, cache: Path) -> None:
        """Bring all sources into one vocabulary, whose tokenizer evaluators then use."""
        target = None if tokenizer == UNION else tokenizer
        form = self.setup.form
        self.folders, self.readers, alignment = align_sources(
            self.folders, self.readers, "base", target, form.tokens, form.pad_to_multiple_of
        )
        if target is not None:
            self._tokenizer_folder = self.folders[target].path
            if not form.tokens:
                return
        full = {n: f.path for n, f in self.folders.items() if isinstance(f, CheckpointFolder)}
        paths = [path for _, path in sorted(full.items())] if target is None else []
        self._tokenizer_folder = union_tokenizer(
            cache / "union-tokenizer",
            self._tokenizer_folder,
            [path for path in paths if path != self._tokenizer_folder],
            alignment.vocabulary.ids,
        )

    @property
    def base(self) -> CheckpointFolder:
        """The base model as it is merged, its vocabulary aligned."""
        return cast(CheckpointFolder, self.folders["base"])

    @property
    def layout(self) -> ModelLayout:
        """The layout that `prepare` records, before it is known what the experts touch.

        Once it is on record its rows are those of the record: an earlier version may have told more apart.
        """
        layout = self.base.layout_by(tensor=self.setup.by_tensor, row=self.setup.by_row)
        return layout if self.setup.rows is None else replace(layout, rows=self.setup.rows)

    def live(self) -> LiveModel:
        """The resident model, built once."""
        if self._live is None:
            dtype = torch_dtype(self.setup.dtype)
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
                max_layers=self._room(elements * dtype.itemsize),
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

    def _room(self, model_bytes: int) -> int | None:
        """For how many layers the live model has room; None where layers stay in their places."""
        section = self.setup.layer_path
        if section is None:
            return None
        experts = [name for name in self.setup.sources if name != "base"]
        paths = build_layer_paths(section, self.base.layers, experts, "")
        every = len(paths.choices)
        if model_bytes * every <= RESIDENT_BYTES * self.base.layers:
            return every
        return min(paths.most, every)

    def _stored_bytes(self) -> int:
        """Bytes of base and experts; adapters are small beside them."""
        full = [f for f in self.folders.values() if isinstance(f, CheckpointFolder)]
        return sum(header.nbytes for folder in full for header in folder.tensors.values())

    def tokenizer(self) -> Any:
        """The tokenizer of merges, the base's or another's, loaded once; None of what reads no tokens."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._tokenizer_folder)
        return self._tokenizer

    def prepare(self, job: Job) -> JobResult:
        """Look at all weights once: digests, finiteness, zero task vectors; and index the items.

        What an earlier look at the same files left in the cache is taken from there.

        Raises:
            CheckpointError: the weights have faults.
        """
        start = time.perf_counter()
        digests = {name: self.weights.digest(name) for name in self.folders}
        self.statistics.know(digests | self._merged)
        found = prepare_statistics(
            self.statistics, self.stored, "base", self.setup.methods, self.setup.trims,
            by_tensor=self.setup.by_tensor, calibration=self.setup.calibration,
        )  # fmt: skip
        directions = {
            evaluator.name: dict(evaluator.loss_directions("search")) if self._learns(evaluator) else {}
            for evaluator in self.evaluators
        }
        evaluators = {
            evaluator.name: PreparedEvaluator(
                digest=evaluator.declaration.digest(),
                metrics=tuple(evaluator.metrics),
                items={split: evaluator.item_count(split) for split in SPLITS},
                deterministic=evaluator.declaration.deterministic,
                block_size=evaluator.block_size if isinstance(evaluator, BlockEvaluator) else None,
                losses=bool(directions[evaluator.name]),
                choices=self._learns(evaluator) and evaluator.has_choices("search"),
                loss_directions=directions[evaluator.name],
            )
            for evaluator in self.evaluators
        }
        prepared = PreparedEvent(
            checkpoints=digests,
            storage=self.setup.storage,
            layout=layout_record(replace(self.layout, active=found.active)),
            evaluators=evaluators,
            task_vectors=found.task_vectors,
            warnings=found.warnings,
            one_with_baselines=True,
            shares_rows=True,
            mixture_rows=True,
            generation=self._generation_seconds() if job.generation == "auto" else None,
        )
        seconds = {"prepare": time.perf_counter() - start}
        return JobResult(job.id, "ok", prepared=prepared, seconds=seconds)

    def _learns(self, evaluator: Evaluator) -> TypeGuard[Differentiable]:
        """Whether an evaluator may have losses here: they are those of decoders."""
        return isinstance(evaluator, Differentiable) and not self.base.config.get("is_encoder_decoder")

    def evaluate(self, job: Job) -> JobResult:
        """Merge into the live model and score it."""
        merged = self._merge(job, self._measures_distance)
        statistics = merged.statistics
        subject = self._subject(merged.model, merged.recipe, statistics)
        subject = replace(
            subject, generation="continuous" if job.generation == "continuous" else "padded"
        )
        if job.race is None:
            found: Scores | Beaten = score_subject(subject, self.evaluators, job.split)
        else:
            found = race_subject(subject, self.evaluators, job.split, job.race)
        scores = found.scores if isinstance(found, Beaten) else found
        measured = Measured(scores.metrics, statistics)
        if isinstance(found, Beaten):
            measured = Measured(scores.metrics, statistics, found.by, dict(found.seen))
        return JobResult(
            job.id,
            "raced" if isinstance(found, Beaten) else "ok",
            measured=measured,
            items=scores.arrays(),
            seconds={**merged.seconds, "evaluate": time.perf_counter() - merged.at},
        )

    def slope(self, job: Job) -> JobResult:
        """Merge into the live model; losses there and their gradient by the weights of the experts.

        Raises:
            ConfigError: E147 a recipe without such a gradient, E148 an evaluator without a loss.
            CandidateError: `nonfinite_weights` or `nonfinite_logits`.
        """
        assert job.slope is not None
        merged = self._merge(job)
        live = self.live()
        slopes = Slopes(live, merged.recipe, self.folders, self.statistics, self.readers, self.layout)
        subject = self._subject(merged.model, merged.recipe)
        found = measure_slope(subject, self.evaluators, job.split, job.slope, live, slopes)
        seconds = {**merged.seconds, "slope": time.perf_counter() - merged.at}
        return JobResult(job.id, "ok", slope=found, seconds=seconds)

    def _generation_seconds(self) -> dict[str, float] | None:
        """Seconds of each engine that can write answers, on the base; None where no task is written."""
        if not any(writing(self.evaluators)):
            return None
        recipe = base_recipe(self.base, self.setup.storage)
        self.live().materialize(make_plan(recipe, self.folders, self.statistics), self.readers)
        return time_engines(self._subject(self.live().model, recipe), self.evaluators)

    def _merge(self, job: Job, distance: bool = False) -> _Merged:
        """Bring a job's merge into the live model, or make a model of its mixture or ensemble."""
        assert job.recipe is not None
        start = time.perf_counter()
        recipe = recipe_from_json(
            dict(job.recipe), rows=lambda digest, where: parse_rows(job.rows, digest, "the job", where)
        )
        known = recipe.checkpoints.items()
        digests = {name: source.digest for name, source in known if source.digest}
        self.weights.check(digests)
        self.statistics.know(digests | self._merged)
        live = None if recipe.mixture is not None or recipe.ensemble else self.live()
        loaded = time.perf_counter()
        plan = make_plan(recipe, self.folders, self.statistics)
        if recipe.ensemble:
            model, statistics = self._together(recipe)
        elif live is None:
            model, statistics = self._mix(recipe, plan)
        else:
            report = live.materialize(plan, self.readers, distance)
            model, statistics = live.model, {"tensors_written": float(report.tensors_written)}
            if report.l1 is not None and report.l2 is not None:
                statistics |= {"l1": report.l1, "l2": report.l2}
        # Again: the files are mapped, and may have been written to while they were read.
        self.weights.check(digests)
        merged = time.perf_counter()
        seconds = {"load": loaded - start, "merge": merged - loaded}
        return _Merged(model, recipe, statistics, merged, seconds)

    def _together(self, recipe: Recipe) -> tuple[PreTrainedModel, dict[str, float]]:
        """Live models that answer as one; nothing of them is kept."""
        device = visible_devices(self.setup.device, self.setup.devices)[0]
        models, written = [], 0
        for name in recipe.ensemble:
            live = LiveModel.load(self.base, dtype=torch_dtype(self.setup.dtype), device=device)
            known = recipe.checkpoints
            own = checkpoint_recipe(known, name, self.base.layers, recipe.dtype)
            plan = make_plan(own, self.folders, self.statistics)
            written += live.materialize(plan, self.readers).tensors_written
            models.append(live.model)
        return logit_ensemble(models), {"tensors_written": float(written)}

    def _mix(self, recipe: Recipe, plan: MergePlan) -> tuple[PreTrainedModel, dict[str, float]]:
        """A model of a recipe's mixture: other layers are other parameters, so that each has its own."""
        if self._routers is None:
            self._routers = Routers(self.base, self.readers)
        planned = mixture_on(recipe, plan, self.base, self._routers, self.readers)
        device = visible_devices(self.setup.device, self.setup.devices)[0]
        written = {"tensors_written": float(len(planned.tensors))}
        return live_mixture(planned, self.setup.dtype, device), written

    def _subject(
        self, model: Any, recipe: Recipe, statistics: Mapping[str, float] | None = None
    ) -> Subject:
        return Subject(
            model=model,
            tokenizer=self.tokenizer(),
            recipe=recipe,
            statistics=statistics or {},
            device=self.setup.device,
            batch_size=self.setup.batch_size,
            folder=self._tokenizer_folder,
            heads=self._heads.on(self.live().bindings, model.device, model.dtype)
            if self._heads.tensors
            else {},
        )


def _form_digest(setup: WorkerSetup) -> str:
    """Of the form of all merges and of the models whose rows and heads it may take: 16 hex digits."""
    stated = {"form": asdict(setup.form), "sources": list(setup.sources.items())}
    return hashlib.sha256(canonical_json(stated).encode()).hexdigest()[:16]
