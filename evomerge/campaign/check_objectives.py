"""What `check` says of objectives and constraints: whether evaluators give the metrics they name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.file import OptimizerSection, StageSection
from evomerge.errors import Problem
from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.kinds import KINDS
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, benchmark_problem
from evomerge.objectives.constraint import Bound
from evomerge.objectives.measures import as_share
from evomerge.objectives.region import is_region, stated_bounds
from evomerge.optimizers.stage import LEARNING
from evomerge.recipe.recipe import AS_BASE, EACH
from evomerge.search_space import SearchSpace


def wrong_metrics(campaign: Campaign, declarations: Mapping[Path, Declaration]) -> list[Problem]:
    """E124 for metrics that no evaluator gives, E125 for those that get better the other way.

    None where a declaration could not be read: it may be the one that gives them.
    """
    problems: list[Problem] = []
    directions: dict[str, bool | None] = {}
    for declaration in declarations.values():
        directions |= declaration.directions()
    if len(declarations) < len(campaign.evaluator_files):
        return problems
    for where, metric in _named_metrics(campaign):
        if metric not in directions:
            near = difflib.get_close_matches(metric, directions, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"metrics: {', '.join(directions)}"
            wrong = f"no evaluator gives the metric `{metric}`"
            problems.append(campaign.fault(where, "E124", wrong, "", hint))
    for index, objective in enumerate(campaign.objectives):
        if objective.metric not in directions:
            continue
        higher = directions[objective.metric]
        if higher is not None and higher != (objective.direction == "maximize"):
            right = "maximize" if higher else "minimize"
            wrong = f"{objective.metric} gets better the other way"
            found, todo = f"found {objective.direction}", f"write `{right}`"
            where = ("objectives", index, "direction")
            problems.append(campaign.fault(where, "E125", wrong, found, todo))
    return problems


def cannot_race(campaign: Campaign, declarations: Mapping[Path, Declaration]) -> list[Problem]:
    """E142 for objectives of a racing campaign whose evaluators cannot stop between blocks."""
    if campaign.config.racing is None:
        return []
    whole = {m for d in declarations.values() if not d.by_block for m in d.directions()}
    return [
        campaign.fault(("objectives", index, "metric"), "E142", f"{objective.metric} cannot race",
                       "racing takes metrics of lm-eval tasks", "leave `racing` out")
        for index, objective in enumerate(campaign.objectives)
        if objective.metric in whole
    ]  # fmt: skip


def may_teach(campaign: Campaign, declarations: Mapping[Path, Declaration]) -> dict[str, bool]:
    """Of each metric, whether it may be learned from losses (by entropy, choices); the items decide."""
    entropy = by_entropy(campaign)
    return {
        metric: declaration.has_losses and (entropy or metric in declaration.learnable())
        for declaration in declarations.values()
        for metric in declaration.directions()
    }


def no_gradients(campaign: Campaign, space: SearchSpace, losses: Mapping[str, bool]) -> list[Problem]:
    """E149 for an optimizer that only learns from gradients, where there are none.

    Args:
        campaign: as loaded.
        space: its search space.
        losses: of each metric, whether it has (or may have) losses; by entropy, choices.
    """
    if _first(campaign).kind != "learned-front":
        return []
    reasons = _why_no_gradients(campaign, space, losses)
    if not reasons:
        return []
    where: tuple[str | int, ...] = ("optimizer", "kind")
    todo = "take optimizer.kind auto, which does without them"
    if campaign.config.stages:
        where, todo = ("stages", 0), "take kind surrogate for this stage"
    elif space.paths is not None:
        todo += ", or learn the merge in a stage before that of paths (`stages`)"
    wrong = "learned-front has no gradients to learn from"
    return [campaign.fault(where, "E149", wrong, "; ".join(reasons), todo)]


def learns(campaign: Campaign, space: SearchSpace, losses: Mapping[str, bool]) -> bool:
    """Whether the optimizer, or that of the first stage, learns from gradients; see `no_gradients`."""
    return _first(campaign).kind in LEARNING and not _why_no_gradients(campaign, space, losses)


def _first(campaign: Campaign) -> OptimizerSection | StageSection:
    """The optimizer, or that of the first stage."""
    return campaign.config.stages[0] if campaign.config.stages else campaign.config.optimizer


def _why_no_gradients(campaign: Campaign, space: SearchSpace, losses: Mapping[str, bool]) -> list[str]:
    """Why there are none, in words."""
    reasons = []
    has_weights = space.method.coefficient("weight") is not None
    if not has_weights:
        reasons.append(f"the method {campaign.space.method} has no weights of experts")
    elif not space.method.has_slopes(space.options):
        stated = ", ".join(f"{name}: {value}" for name, value in campaign.space.options.items())
        named = f"{campaign.space.method} with {stated}" if stated else campaign.space.method
        reasons.append(f"the method {named} is not linear in its weights")
    elif space.method.makes_whole and _first(campaign).options.get("whole_tensors") is False:
        reasons.append(f"`whole_tensors: false` leaves out {campaign.space.method}")
    if campaign.config.stages:
        if not space.begins_with_the_merge:
            reasons.append(
                "paths do not begin with all layers of `merged`, in order and within its outer parts"
            )
    elif space.paths is not None:
        reasons.append("paths of layers have no gradient")
    if space.mixtures is not None:
        reasons.append("mixtures of experts have no gradient here")
    weighed = any(gene.coefficient == "weight" and gene.input in space.experts for gene in space.genes)
    if has_weights and not weighed:
        reasons.append("the search space has no gene for the weight of an expert")
    if not any(losses.get(objective.metric) for objective in campaign.objectives):
        what = (
            "has choices, whose entropy it learns from"
            if by_entropy(campaign)
            else "has losses that fall as it gets better"
        )
        reasons.append(f"no objective {what}")
    return reasons


def no_ensemble(campaign: Campaign, losses: Mapping[str, bool]) -> list[Problem]:
    """E142 for an ensemble as a baseline, where its models cannot answer as one.

    Args:
        campaign: as loaded.
        losses: by evaluator, whether it has (or may have) losses.
    """
    if not campaign.config.baselines.ensemble:
        return []
    reasons = [f"`{name}` does not go by log-likelihoods" for name, has in losses.items() if not has]
    if campaign.form != AS_BASE:
        reasons.append("models are brought into one vocabulary, head or rotary positions")
    if not reasons:
        return []
    wrong = "experts cannot answer together here"
    todo = "leave `baselines.ensemble` out"
    return [campaign.fault(("baselines", "ensemble"), "E142", wrong, "; ".join(reasons), todo)]


def by_entropy(campaign: Campaign) -> bool:
    """Whether an optimizer, or that of the first stage, learns from entropies, without labels."""
    stages = campaign.config.stages
    options = stages[0].options if stages else campaign.config.optimizer.options
    return options.get("loss") == "entropy"


def benchmark_items(campaign: Campaign, declarations: Mapping[Path, Declaration]) -> list[Problem]:
    """E127 for objectives that are measured on the items a public benchmark is scored on."""
    sought = {objective.metric for objective in campaign.objectives}
    return [
        found
        for declaration in declarations.values()
        if isinstance(declaration, LmEvalDeclaration) and sought & {*declaration.metric_names}
        if (found := benchmark_problem(declaration))
    ]


def odd_counts(campaign: Campaign) -> list[Problem]:
    """A warning for a number of objectives with which a front says little."""
    count = len(campaign.objectives)
    if 2 <= count <= 5:
        return []
    wrong = "with so many objectives almost nothing is dominated"
    if count == 1:
        wrong = "with one objective the front is its best model"
    return [campaign.fault(("objectives",), "E130", wrong, f"found {count}")]


def bounds_in_percent(
    campaign: Campaign, declarations: Mapping[Path, Declaration]
) -> tuple[list[Problem], list[Problem]]:
    """E110 for bounds on accuracies that are stated in percent: faults, and warnings.

    An accuracy that no model reaches is a fault; another bound keeps out nothing, or spends a budget where
    nothing lies. Metrics of people's own functions are left alone: their names may begin like accuracies.
    """
    known = {
        metric
        for declaration in declarations.values()
        if declaration.kind in KINDS
        for metric in declaration.directions()
    }
    problems: list[Problem] = []
    warnings: list[Problem] = []
    stated: list[tuple[tuple[str | int, ...], Bound]] = [
        (("constraints", index), Bound(each.metric, each.relation, each.number))
        for index, each in enumerate(campaign.constraints)
        if each.of is None
    ]
    focus = campaign.config.optimizer.focus
    if isinstance(focus, str) and is_region(focus):
        bounds = stated_bounds(campaign.objectives, focus)
        stated += [(("optimizer", "focus"), bound) for bound in bounds]
    for where, bound in stated:
        share = as_share(bound.metric, bound.value) if bound.metric in known else ""
        if share:
            wrong = f"`{bound}`: scores are shares of 1"
            todo = f"write {share} for {bound.value:g} %"
            fatal = where[0] == "constraints" and bound.relation == ">="
            (problems if fatal else warnings).append(campaign.fault(where, "E110", wrong, "", todo))
    return problems, warnings


def measured_by_the_clock(
    campaign: Campaign, declarations: Mapping[Path, Declaration]
) -> list[Problem]:
    """A warning for each objective or constraint that another run would measure otherwise."""
    clocked = {m for d in declarations.values() if not d.deterministic for m in d.directions()}
    wrong = "is measured by the clock: a resume goes on from what was recorded, another run differs"
    return [
        campaign.fault(where, "E143", f"{metric} {wrong}")
        for where, metric in _named_metrics(campaign)
        if metric in clocked
    ]


def _named_metrics(campaign: Campaign) -> list[tuple[tuple[str | int, ...], str]]:
    """Every metric the campaign file names, with the field it stands in."""
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("objectives", index, "metric"), objective.metric)
        for index, objective in enumerate(campaign.objectives)
    ]
    constraints = enumerate(campaign.constraints)
    return named + [(("constraints", index), constraint.metric) for index, constraint in constraints]


def wrong_heads(campaign: Campaign, declarations: Mapping[Path, Declaration]) -> list[Problem]:
    """E133 for evaluators that name a head which no merge of the campaign has."""
    heads = ("base", *campaign.experts) if campaign.form.heads == EACH else ()
    problems = []
    for declaration in declarations.values():
        named = getattr(declaration, "head", None)
        if named is None or named in heads:
            continue
        todo = (
            f"known: {', '.join(heads)}"
            if heads
            else "only `heads: each` in the campaign leaves heads beside; add it, or leave `head` out"
        )
        wrong = "no head of this name lies beside the merges"
        problems.append(declaration.fault("head", "E133", wrong, f"found {named!r}", todo))
    return problems
