"""What a campaign that searches mixtures of experts cannot have, seen without reading a weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from evomerge.campaign.campaign import Campaign
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CheckpointError, Problem
from evomerge.evaluators.declaration import Declaration
from evomerge.merge.mixture.architectures import mixture_of
from evomerge.recipe.recipe import AS_BASE


def cannot_be_mixed(
    campaign: Campaign, base: CheckpointFolder, declarations: Iterable[Declaration]
) -> list[Problem]:
    """E234 for models that become no mixture, E142 for what does not go with one.

    Args:
        campaign: as loaded.
        base: opened.
        declarations: its evaluators.
    """
    section = campaign.space.mixture
    if section is None:
        return []
    problems = []
    try:
        mixture_of(base)
        # Unless all layers are one run, some candidates leave some of them dense.
        mixture_of(base, some_layers=section.bands != 1)
    except CheckpointError as error:
        # As a mixture's file says it: with a window all layers become experts, or none.
        problems += [replace(p, todo=p.todo.replace("leave `layers` out", "search `bands: 1`"))
                     for p in error.problems]  # fmt: skip
    if campaign.form != AS_BASE:
        wrong = "experts of a mixture are models of one vocabulary, head and rotary positions"
        todo = "leave out `tokenizer`, `rope`, `heads` and `towers`"
        problems.append(Problem("E142", wrong, "", todo, str(campaign.file)))
    if campaign.config.workers.gpus > 1:
        wrong = "a mixture of experts lies on one device"
        problems.append(campaign.fault(("workers", "gpus"), "E142", wrong, "", "give each worker one"))
    for declaration in declarations:
        if {"l1", "l2"} & {*declaration.reads}:
            wrong = f"`{declaration.name}` measures a distance to the base, which a mixture has not"
            problems.append(campaign.fault(("evaluators",), "E142", wrong, "", "leave it out"))
    return problems
