"""Whether a merged source is one: its method, the number of its inputs, its options and what they need."""

from __future__ import annotations

from dataclasses import replace

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.method import MergeMethod
from evomerge.recipe.recipe import MergedSource
from evomerge.recipe.registered import changed_method, find_method


def checked_method(source: MergedSource, where: str) -> MergeMethod:
    """The method of a merged source, once its inputs, base and options are found right."""
    try:
        method = find_method(source.method)
    except ConfigError as error:
        raise ConfigError([replace(p, field=f"{where}.method") for p in error.problems]) from error
    changed = changed_method(method, source.function, f"{where}.function")
    if changed is not None:
        raise ConfigError(changed)
    least, most = method.inputs
    problems = []
    count = len(source.inputs)
    if count < least or (most is not None and count > most):
        wanted = f"exactly {least}" if least == most else f"at least {least}"
        found = f"found {count}"
        problems.append(Problem("E118", f"{method.name} takes {wanted} inputs", found, field=where))
    problems += [
        Problem("E111", fault, field=f"{where}.options") for fault in method.faults(source.options)
    ]
    if source.rows is not None and method.name != "task_arithmetic":
        wrong, todo = f"{method.name} has no weights by row", "task_arithmetic has"
        problems.append(Problem("E111", wrong, "", todo, field=f"{where}.rows"))
    elif source.rows is not None and not problems and _has_shares(method, source):
        wrong, todo = "weights by row are not divided by their sum", "leave `divisor` out"
        problems.append(Problem("E111", wrong, "", todo, field=f"{where}.rows"))
    if (method.on_inputs is None) != (source.calibration is None):
        needs, todo = "takes no", ""
        if source.calibration is None:
            needs, todo = "needs a", "give `path` of a file with an item a line"
        wrong = f"{method.name} {needs} calibration text"
        problems.append(Problem("E111", wrong, "", todo, field=f"{where}.calibration"))
    if not problems and method.uses_base(method.resolve(source.options)) and source.base is None:
        problems.append(Problem("E115", f"{method.name} needs a base", field=f"{where}.base"))
    if problems:
        raise ConfigError(problems)
    return method


def _has_shares(method: MergeMethod, source: MergedSource) -> bool:
    return method.scalars_with(method.resolve(source.options)) != "weights"
