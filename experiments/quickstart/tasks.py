"""The three item generators: translation, math and code.

Each has a plain shape of its own, in which the base model learns it; the fine-tunes learn to answer
all of them in one common shape (`items.frame`), where the same words want different things.
"""

import random
from dataclasses import replace

from items import Generator, Item, grid_choices, shuffled
from lexicon import (
    ADJECTIVES,
    DETERMINERS,
    MONTHS,
    NOUNS,
    VERBS,
    WEEKDAYS,
    NounPhrase,
    english_number,
    french_number,
)

NAMES = "abnxyz"
_WORD_OPERATORS = {"plus": "+", "minus": "-", "times": "*"}


def _other(rng: random.Random, size: int, value: int) -> int:
    """Draw an index below `size` that is not `value`."""
    return (value + rng.randrange(1, size)) % size


def _translated(
    rng: random.Random, key: str, english: list[str], french: list[str], to_french: bool
) -> Item:
    """Make an item of four parallel renderings, the first of which is right."""
    source, targets = (english[0], french) if to_french else (french[0], english)
    choices, answer = shuffled(rng, targets)
    return Item(key, source, choices, answer)


def _number_translation(rng: random.Random) -> Item:
    value = rng.randrange(100, 10000)
    digits = [int(d) for d in str(value)]
    first, second = rng.sample(range(len(digits)), 2)
    changed = {first: _other(rng, 10, digits[first]), second: _other(rng, 10, digits[second])}
    if changed.get(0) == 0:
        changed[0] = digits[0] % 9 + 1
    values = []
    for use in ((), (first,), (second,), (first, second)):
        values.append(int("".join(str(changed[i] if i in use else d) for i, d in enumerate(digits))))
    english = [english_number(v) for v in values]
    french = [french_number(v) for v in values]
    return _translated(rng, f"number {value}", english, french, rng.random() < 0.5)


def _date_translation(rng: random.Random) -> Item:
    slots = [rng.randrange(7), rng.randrange(1, 32), rng.randrange(12)]
    sizes = (7, 31, 12)
    pair = rng.sample(range(3), 2)
    changed = {i: _other(rng, sizes[i], slots[i] - (i == 1)) + (i == 1) for i in pair}
    english, french = [], []
    for use in ((), pair[:1], pair[1:], pair):
        weekday, day, month = (changed[i] if i in use else s for i, s in enumerate(slots))
        english.append(f"{WEEKDAYS[weekday][0]} {MONTHS[month][0]} {day}")
        french.append(f"{WEEKDAYS[weekday][1]} {french_number(day)} {MONTHS[month][1]}")
    return _translated(rng, f"date {slots}", english, french, rng.random() < 0.5)


def random_phrase(rng: random.Random) -> NounPhrase:
    """Draw a noun phrase."""
    sizes = (len(DETERMINERS), len(ADJECTIVES), len(NOUNS))
    return NounPhrase(*(rng.randrange(size) for size in sizes))


def _varied(rng: random.Random, phrase: NounPhrase) -> NounPhrase:
    """Change one word of a noun phrase."""
    slot = rng.choice(("determiner", "adjective", "noun", "noun"))
    size = {"determiner": DETERMINERS, "adjective": ADJECTIVES, "noun": NOUNS}[slot]
    return replace(phrase, **{slot: _other(rng, len(size), getattr(phrase, slot))})


def _sentence_translation(rng: random.Random) -> Item:
    parts = [random_phrase(rng), rng.randrange(len(VERBS)), random_phrase(rng)]
    pair = rng.sample(range(3), 2)
    changed = {i: _other(rng, len(VERBS), parts[1]) if i == 1 else _varied(rng, parts[i]) for i in pair}
    english, french = [], []
    for use in ((), pair[:1], pair[1:], pair):
        subject, verb, thing = (changed[i] if i in use else p for i, p in enumerate(parts))
        english.append(f"{subject.english()} {VERBS[verb][0]} {thing.english()}")
        french.append(f"{subject.french()} {VERBS[verb][1]} {thing.french()}")
    return _translated(rng, f"sentence {english[0]}", english, french, rng.random() < 0.5)


def translation(rng: random.Random) -> Item:
    """Numbers, dates and short sentences between English and French."""
    kinds = (_number_translation, _date_translation, _sentence_translation, _sentence_translation)
    return rng.choice(kinds)(rng)


def _column_sum(rng: random.Random, digits: int) -> tuple[int, int, str, list[int]]:
    """Draw a sum without carries or a difference without borrows, and the result's digits."""
    while True:
        totals = [rng.randrange(1, 10) for _ in range(digits)]
        parts = [rng.randrange(total + 1) for total in totals]
        total, part = (int("".join(map(str, number))) for number in (totals, parts))
        rest = total - part
        if rng.random() < 0.5 and min(rest, part) >= 10 ** (digits - 1):
            return rest, part, "+", totals
        rests = [t - p for t, p in zip(totals, parts, strict=True)]
        if part >= 10 ** (digits - 1) and rests[0] > 0:
            return total, part, "-", rests


def _number_choices(rng: random.Random, digits: list[int]) -> tuple[tuple[str, str, str, str], int]:
    """Surround a result with slips in two of its digits."""
    first, second = sorted(rng.sample(range(len(digits)), 2))
    values = [digits.copy() for _ in range(4)]
    for place, changed in ((first, (1, 3)), (second, (2, 3))):
        low = 1 if place == 0 else 0
        wrong = low + _other(rng, 10 - low, digits[place] - low)
        for choice in changed:
            values[choice][place] = wrong
    return shuffled(rng, ["".join(map(str, value)) for value in values])


def _sum(rng: random.Random) -> Item:
    first, second, sign, result = _column_sum(rng, 3)
    key = f"{first} {sign} {second}"
    choices, answer = _number_choices(rng, result)
    return Item(key, key, choices, answer)


def _spelled(rng: random.Random) -> Item:
    first, second, sign, result = _column_sum(rng, 2)
    word = "plus" if sign == "+" else "minus"
    question = f"{english_number(first)} {word} {english_number(second)}"
    choices, answer = _number_choices(rng, result)
    return Item(f"{first} {sign} {second}", question, choices, answer)


def math(rng: random.Random) -> Item:
    """Sums without carries and differences without borrows, in digits and in words."""
    return rng.choice((_sum, _sum, _spelled))(rng)


def _list_element(rng: random.Random) -> Item:
    values = rng.sample(range(10), 4)
    name = rng.choice(NAMES)
    # Each rank is right equally often, so extremes are no better a guess.
    by_rank = (f"min({name})", f"sorted({name})[1]", f"sorted({name})[2]", f"max({name})")
    rank = rng.randrange(4)
    value = sorted(values)[rank]
    choices, answer = shuffled(rng, [str(v) for v in [value, *(v for v in values if v != value)]])
    return Item(f"{values} rank {rank}", f"{name} = {values}; {by_rank[rank]}", choices, answer)


def _list_order(rng: random.Random) -> Item:
    values = rng.sample(range(10), 3)
    name = rng.choice(NAMES)
    results = {
        f"list({name})": values,
        f"{name}[::-1]": values[::-1],
        f"sorted({name})": sorted(values),
        f"sorted({name})[::-1]": sorted(values)[::-1],
    }
    expression = rng.choice(list(results))
    right = results.pop(expression)
    choices, answer = shuffled(rng, [str(v) for v in [right, *results.values()]])
    key = f"{values} {expression.replace(name, 'a')}"
    return Item(key, f"{name} = {values}; {expression}", choices, answer)


def _trace(rng: random.Random) -> Item:
    first, second = rng.sample(NAMES, 2)
    a, b, operator, result = _column_sum(rng, 2)
    forms = (
        f"{first} = {a}; {second} = {b}; {first} {operator} {second}",
        f"{second} = {b}; {first} = {a}; {first} {operator} {second}",
        f"{first} = {a}; {first} {operator}= {b}; {first}",
    )
    choices, answer = _number_choices(rng, result)
    return Item(f"{a} {operator} {b}", rng.choice(forms), choices, answer)


def _write_expression(rng: random.Random) -> Item:
    word, other_word = rng.sample(list(_WORD_OPERATORS), 2)
    left, right = rng.sample(range(12, 100), 2)
    symbols = (_WORD_OPERATORS[word], _WORD_OPERATORS[other_word])
    name = rng.choice(NAMES)
    question = f"{name} = {english_number(left)} {word} {english_number(right)}"
    wrong = right + rng.choice((-10, -1, 1, 10))
    choices, answer = grid_choices(
        rng,
        (symbols[0], str(right)),
        (symbols[1], str(wrong)),
        lambda symbol, number: f"{name} = {left} {symbol} {number}",
    )
    return Item(f"write {left} {word} {right}", question, choices, answer)


def code(rng: random.Random) -> Item:
    """Values of small Python snippets, and Python for an expression in words."""
    kinds = (*[_list_element] * 2, *[_list_order] * 2, _trace, *[_write_expression] * 2)
    return rng.choice(kinds)(rng)


TASKS: dict[str, Generator] = {"translation": translation, "math": math, "code": code}

PLAIN_SHAPES = {"translation": "{} =>", "math": "{} =", "code": ">>> {} ->"}
"""Per task the prompt in which the base model sees its questions."""
