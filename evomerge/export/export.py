"""Export: one merge as a checkpoint to publish, whole and verified, or not at all.

A candidate's recipe is decoded again from the ledger, the weights it was measured on are checked to be
the same, the plan is streamed to a staged folder through the kernels of the search, and the folder is
reloaded, compared and scored before it gets its name: what was scored is what is published.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.licence import CARD_FILE
from evomerge.checkpoint.tokenizer import write_chat_template, write_union
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    EvomergeError,
    ExportCheckFailed,
    Problem,
    UsageError,
)
from evomerge.export import log
from evomerge.export.choice import choose
from evomerge.export.files import (
    CONFIG_FILE,
    MERGEKIT_FILE,
    RECIPE_FILE,
    copy_side_files,
    output_config,
    published_recipe,
    write_json,
    write_manifest,
)
from evomerge.export.habits import Aside, join_habits, what_stands_aside
from evomerge.export.merge import (
    OpenedMerge,
    nonfinite_sources,
    open_merge,
)
from evomerge.export.model_card import Card, CardSearch, CardSource, marked, model_card
from evomerge.export.outcome import ExportReport, scores_json
from evomerge.export.picture import PICTURE_FILE, draw_front
from evomerge.export.scores import check_evaluators, score_export
from evomerge.export.stated import with_positions_of
from evomerge.export.taken import NOTHING, Taken, searched_parts, take
from evomerge.export.verify import StreamedDigests, check_loading, check_weights
from evomerge.failpoint import failpoint
from evomerge.files.staging import (
    check_space,
    claim_target,
    scratch_folder,
    staged_folder,
)
from evomerge.ledger.history import CACHE_FOLDER
from evomerge.merge.heads import Heads
from evomerge.merge.materialize import write_checkpoint
from evomerge.merge.peft_adapters import ADAPTERS_FOLDER
from evomerge.merge.skeleton import quiet_loading
from evomerge.merge.threads import torch_threads
from evomerge.mergekit import mergekit_yaml
from evomerge.mergekit.stated import read_recipe, stated_merge
from evomerge.objectives.scores import Metric
from evomerge.recipe.recipe import UNION, Recipe
from evomerge.recipe.rows import rows_file
from evomerge.versions import SCORING, library_versions

__all__ = ["ExportReport", "export_candidate", "merge_recipe"]

SHARD_BYTES = 5_000_000_000


def export_candidate(
    directory: Path,
    choice: str,
    out: Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    rescore: bool = True,
    allow_task_code: bool = False,
    taken: Taken = NOTHING,
) -> ExportReport:
    """Write one candidate of a campaign as a checkpoint, verified and scored on test items.

    Args:
        directory: the campaign folder; a run may be under way in it.
        choice: what `front.pick` takes, or the id of any evaluated candidate or baseline.
        out: the folder to publish.
        overwrite: replace a model folder that is there.
        shard_bytes: most bytes of one weight file.
        rescore: score the reloaded export: on the items that decided, which must give the recorded
            scores, and on test items, which is counted. Without it the card has no test scores.
        allow_task_code: whether task files may run the Python they name.
        taken: models to have the tokenizer and the chat template from. Recorded scores that do not come out
            again with them are told as warnings.

    Raises:
        UsageError: E506, E507 for a choice that fits nothing, E509 no campaign, E601 the target exists,
            E500 as `take`.
        CheckpointError: E239, the weights are not those of the campaign; others as in opening them.
        ConfigError: E504, the evaluators are not those of the campaign.
        EnvironmentFault: E403 no room, E408 cannot be written.
        ExportCheckFailed: E602; nothing was published.
        LedgerDamaged: the campaign cannot be read.
    """
    started = time.perf_counter()
    out = claim_target(out, overwrite=overwrite)
    chosen = choose(directory, choice)
    campaign, candidate = chosen.campaign, chosen.candidate
    hubs = {
        name: f"{reference.hub}@{reference.revision}"
        for name, reference in campaign.references().items()
        if reference.hub is not None
    }
    evaluators: dict[str, str] = {}
    if rescore:
        log.check_log(directory)
        evaluators = check_evaluators(chosen)
    merge = open_merge(
        take(chosen.recipe, taken, chosen.models),
        hubs,
        directory / CACHE_FOLDER,
        lambda: directory / CACHE_FOLDER / ADAPTERS_FOLDER,
    )
    _refuse_overlap(out, (directory, *merge.places))
    scores: dict[str, Mapping[str, Metric]] = {
        split: known.metrics for split, known in candidate.evaluations.items()
    }
    warnings = [*chosen.warnings, *merge.notes]
    evaluation = campaign.config.evaluation
    with torch_threads(evaluation.threads), staged_folder(out, overwrite=overwrite) as staged:
        model, aside, more = _write(merge, staged, out, shard_bytes, evaluation.dtype)
        warnings += more
        if rescore:
            test, more = score_export(
                model,
                staged,
                chosen,
                directory,
                evaluators,
                allow_task_code=allow_task_code,
                taken=taken,
            )
            scores["test"] = test
            warnings += more
            failpoint("export.scored")
        else:
            warnings.append("the export was not scored")
        use = log.held_out_use(directory)
        search = CardSearch(
            campaign=campaign.config.name,
            candidate=candidate.id,
            recipe=candidate.recipe,
            choice=choice,
            front=chosen.front,
            scores=scores,
            test_uses=use.times,
            tested_models=use.models,
            seed=campaign.config.seed,
        )
        facts = {
            "campaign": campaign.config.name,
            "candidate": candidate.id,
            "choice": choice,
            "scores": scores_json(scores),
            "test_uses": use.times,
            "evaluation": evaluation.model_dump(mode="json"),
        }
        if taken:
            facts["searched"] = searched_parts(chosen.recipe)
        more = draw_front(chosen.front, marked(search), staged)
        warnings += more
        files = _describe(merge, staged, out, aside, search, facts)
        failpoint("export.described")
    report = ExportReport(
        out=out.name,
        candidate=candidate.id,
        recipe=merge.recipe.digest,
        files=files,
        scores=scores,
        test_uses=use.times,
        seconds=time.perf_counter() - started,
        differences=aside.differences,
        warnings=tuple(warnings),
    )
    return _recorded(report, chosen.recipe.digest, directory)


def merge_recipe(
    recipe: Path | Recipe,
    out: Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    taken: Taken = NOTHING,
    rope: str = "",
) -> ExportReport:
    """Carry out a recipe (or a file: JSON as `Recipe.to_json` writes it, or a mergekit YAML), verified.

    A source's `path` is relative to the file (or where this process is), or `ORG/NAME@COMMIT` of a model
    in the local hub cache. A digest that the recipe states must be that of the files; one that it leaves
    out is filled in. `taken` names models to have tokenizer and chat template from, `rope` the source whose
    rotary positions the result has.

    Raises:
        ConfigError: E101, E102, E138 and others, faults of the recipe.
        CheckpointError: E239, a source is not the one the recipe means; others as in opening them.
        UsageError, EnvironmentFault, ExportCheckFailed: as `export_candidate`.
    """
    started = time.perf_counter()
    out = claim_target(out, overwrite=overwrite)
    stated = stated_merge(recipe, Path()) if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    stated = replace(stated, recipe=with_positions_of(stated.recipe, rope))
    with contextlib.ExitStack() as stack:
        merge = open_merge(
            take(stated.recipe, taken),
            stated.hubs,
            None,
            lambda: stack.enter_context(scratch_folder(out)),
        )
        _refuse_overlap(out, merge.places)
        with staged_folder(out, overwrite=overwrite) as staged:
            _, aside, warnings = _write(merge, staged, out, shard_bytes, stated.recipe.dtype)
            files = _describe(merge, staged, out, aside, None, {})
            failpoint("export.described")
    seconds = time.perf_counter() - started
    return ExportReport(
        out=out.name,
        candidate=None,
        recipe=merge.recipe.digest,
        files=files,
        seconds=seconds,
        differences=aside.differences,
        warnings=(*stated.notes, *merge.notes, *warnings),
    )


def _refuse_overlap(out: Path, used: Iterable[Path]) -> None:
    """Overwriting a folder must not remove what the export is made of.

    Raises:
        UsageError: E601.
    """
    target = Path(os.path.realpath(out))
    for folder in used:
        if Path(os.path.realpath(folder)).is_relative_to(target):
            raise UsageError(
                Problem(
                    "E601", "the export is made of what this folder holds", f"it holds {folder}",
                    "give another folder", str(out),
                )
            )  # fmt: skip


def _write(
    merge: OpenedMerge, staged: Path, out: Path, shard_bytes: int, dtype: str
) -> tuple[Any, Aside, tuple[str, ...]]:
    """Weights, config and tokenizer into the staged folder; gives the model reloaded, more, and warnings."""
    check_space(out, merge.nbytes)
    streamed = StreamedDigests()
    try:
        if merge.mixture is None:
            write_checkpoint(merge.plan, merge.readers, staged, shard_bytes, streamed.add)
        else:
            merge.mixture.write(staged, shard_bytes, streamed.add)
    except CandidateError as error:
        blamed = nonfinite_sources(merge, error.tensor)
        if blamed:
            raise CheckpointError(blamed) from error
        raise ExportCheckFailed(
            Problem("E602", "the merge has no finite result", str(error))
        ) from error
    failpoint("export.weights")
    template = merge.template
    own_config = template.config if merge.mixture is None else merge.mixture.config
    config, warnings = output_config(own_config, merge.plan.dtype, merge.plan.config)
    write_json(staged / CONFIG_FILE, config)
    copied = copy_side_files(template.path, staged)
    own = merge.stated.get(merge.recipe.tokenizer)
    if isinstance(own, AdapterFolder):
        copied += copy_side_files(own.path, staged)
    union = merge.recipe.tokenizer == UNION
    if merge.vocabulary is not None and (union or merge.recipe.tokens):
        names = sorted(merge.recipe.checkpoints) if union else []
        sources = [merge.folders[name] for name in names]
        others = [source.path for source in sources if isinstance(source, CheckpointFolder)]
        write_union(staged, [path for path in others if path != template.path], merge.vocabulary.ids)
    if merge.recipe.chat_template:
        write_chat_template(staged, merge.recipe.chat_template)
    reads_tokens = text_config(template.config).get("vocab_size") is not None
    if reads_tokens and not any(name.startswith("tokenizer") for name in copied):
        warnings = (*warnings, f"{template.name} has no tokenizer files, and so has the export")
    Heads(merge.heads, merge.plan.dtype).write(staged)
    failpoint("export.files")
    check_weights(staged, merge.specs, streamed.by_name)
    with quiet_loading():
        model = check_loading(staged, dtype)
    failpoint("export.checked")
    warnings = (*warnings, *join_habits(merge, staged))
    aside = what_stands_aside(merge, staged)
    return model, aside, (*warnings, *map(str, aside.differences), *aside.warnings)


def _describe(
    merge: OpenedMerge,
    staged: Path,
    out: Path,
    aside: Aside,
    search: CardSearch | None,
    facts: Mapping[str, Any],
) -> dict[str, int]:
    """Recipe, card and, last, the manifest; gives every file and its size."""
    recipe = merge.recipe
    versions = library_versions(SCORING)
    published = published_recipe(recipe, merge.hubs, out)
    write_json(staged / RECIPE_FILE, published.to_json())
    for rows in published.row_tables:
        (staged / rows_file(rows.digest)).write_bytes(rows.content)
    references = {name: source.path for name, source in published.checkpoints.items()}
    spoken = mergekit_yaml(recipe, merge.stated, references)
    if spoken.text:
        (staged / MERGEKIT_FILE).write_text(spoken.text, encoding="utf-8")
    sources = tuple(
        CardSource(name, merge.label(name), source.digest, aside.licences[name])
        for name, source in recipe.checkpoints.items()
    )
    notes = tuple(f"{MERGEKIT_FILE}: {text}" for text in spoken.differences)
    card = Card(
        name=out.name,
        recipe=recipe,
        layers=merge.template.layers,
        sources=sources,
        versions=versions,
        search=search,
        licence=aside.licence,
        differences=aside.differences,
        picture=(staged / PICTURE_FILE).is_file(),
        notes=notes,
    )
    (staged / CARD_FILE).write_text(model_card(card), encoding="utf-8")
    failpoint("export.card")
    return write_manifest(
        staged,
        {
            "name": out.name,
            "recipe": recipe.digest,
            "sources": {s.name: {"model": s.label, "sha256": s.digest} for s in sources},
            "dtype": recipe.dtype,
            "versions": versions,
            **facts,
        },
    )


def _recorded(report: ExportReport, recipe: str, directory: Path) -> ExportReport:
    """Note a publication in the campaign's log of exports; it stands, whether that works or not.

    `recipe` is the digest of the candidate's, which the published one differs from where something was taken.
    """
    assert report.candidate is not None
    event = log.ExportEvent(
        id=report.candidate,
        recipe=recipe,
        out=report.out,
        bytes=sum(report.files.values()),
        scores=report.scores,
    )
    try:
        log.append(directory, event)
    except EvomergeError as error:
        return replace(report, warnings=(*report.warnings, f"not noted in the campaign: {error}"))
    return report
