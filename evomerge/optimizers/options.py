"""Reading an optimizer's options: every unknown name and wrong value at once."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.errors import ConfigError, Problem

Choice = tuple[str, ...]
Span = tuple[float, float]


def read_options(
    kind: str,
    given: Mapping[str, str | float | bool],
    known: Mapping[str, tuple[str | float, Choice | Span]],
) -> dict[str, str | float]:
    """The options with defaults filled in.

    Args:
        kind: the optimizer, for messages.
        given: what the campaign file says.
        known: option to (default, allowed), where allowed are words, or (least, most) for a number.

    Raises:
        ConfigError: E104 for unknown names, E108 for wrong values.
    """
    problems = []
    values: dict[str, str | float] = {name: default for name, (default, _) in known.items()}
    for name, value in given.items():
        field = f"optimizer.options.{name}"
        if name not in known:
            todo = f"options of {kind}: {', '.join(known) or 'none'}"
            problems.append(Problem("E104", "unknown option", "", todo, field=field))
            continue
        default, allowed = known[name]
        if isinstance(default, str):
            fits = value in allowed
            expected = f"one of {', '.join(map(str, allowed))}"
        else:
            least, most = (float(bound) for bound in allowed)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = number and least <= float(value) <= most
            expected = f"a number from {least:g} to {most:g}"
        if not fits:
            problems.append(Problem("E108", f"must be {expected}", f"found {value!r}", field=field))
            continue
        values[name] = value
    if problems:
        raise ConfigError(problems)
    return values
