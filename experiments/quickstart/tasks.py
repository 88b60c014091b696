"""The three item generators: translation, math and code.

They share one prompt shape and, in part, one wording, so that fine-tunes on them want different
things from the same weights.
"""

import random
from dataclasses import replace

from items import Generator, Item, frame, grid_choices, shuffled
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
_LEAST_RESULT = 23


def _other(rng: random.Random, size: int, value: int) -> int:
    """Draw an index below `size` that is not `value`."""
    return (value + rng.randrange(1, size)) % size


def _translated(
    rng: random.Random, key: str, english: list[str], french: list[str], to_french: bool
) -> Item:
    """Make an item of four parallel renderings, the first of which is right."""
    source, targets = (english[0], french) if to_french else (french[0], english)
    choices, answer = shuffled(rng, targets)
    return Item(key, frame(source), choices, answer)


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
    changed = {
        i: _other(rng, len(VERBS), parts[1]) if i == 1 else _varied(rng, parts[i]) for i in pair
    }
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


def _number_choices(rng: random.Random, value: int) -> tuple[tuple[str, str, str, str], int]:
    """Surround a result with slips in the ones and in the tens."""
    ones = rng.choice((-2, -1, 1, 2))
    tens = rng.choice((-20, -10, 10, 20))
    return shuffled(rng, [str(v) for v in (value, value + ones, value + tens, value + ones + tens)])


def _operands(rng: random.Random, low: int, high: int) -> tuple[int, int, str, int]:
    """Draw two operands, a sign and a result from which no slip leads below zero."""
    while True:
        first, second, sign = rng.randrange(10, 100), rng.randrange(low, high), rng.choice("+-")
        value = first + second if sign == "+" else first - second
        if value >= _LEAST_RESULT:
            return first, second, sign, value


def _sum(rng: random.Random) -> tuple[str, str, int]:
    first, second, sign, value = _operands(rng, 10, 100)
    key = f"{first} {sign} {second}"
    return key, key, value


def _spelled(rng: random.Random) -> tuple[str, str, int]:
    first, second, sign, value = _operands(rng, 2, 100)
    word = "plus" if sign == "+" else "minus"
    question = f"{english_number(first)} {word} {english_number(second)}"
    return f"{first} {sign} {second}", question, value


def _chain(rng: random.Random) -> tuple[str, str, int]:
    while True:
        first, second, sign, value = _operands(rng, 2, 10)
        third, last = rng.randrange(2, 10), rng.choice("+-")
        value += third if last == "+" else -third
        if value >= _LEAST_RESULT:
            question = f"{first} {sign} {second} {last} {third}"
            return question, question, value


def math(rng: random.Random) -> Item:
    """Sums and differences in digits and in words."""
    key, question, value = rng.choice((_sum, _sum, _spelled, _chain))(rng)
    choices, answer = _number_choices(rng, value)
    return Item(key, frame(question), choices, answer)


def _list_element(rng: random.Random) -> Item:
    values = rng.sample(range(10), 4)
    name = rng.choice(NAMES)
    ranked = sorted(values)
    rank = rng.randrange(4)
    # Each rank and each position is right equally often, so extremes are no better a guess.
    if rng.random() < 0.5:
        by_rank = {0: "min({})", 1: "sorted({})[1]", 2: "sorted({})[2]", 3: "max({})"}
        expression, value = by_rank[rank].format(name), ranked[rank]
    else:
        index = rank if rng.random() < 0.5 else rank - 4
        expression, value = f"{name}[{index}]", values[index]
    choices, answer = shuffled(rng, [str(v) for v in [value, *(v for v in values if v != value)]])
    code = f"{name} = {values}; {expression}"
    return Item(f"{values} {expression}", frame(code), choices, answer)


def _list_order(rng: random.Random) -> Item:
    values = rng.sample(range(10), 3)
    name = rng.choice(NAMES)
    results = {
        f"sorted({name})": sorted(values),
        f"{name}[::-1]": values[::-1],
        f"{name}[1:] + {name}[:1]": values[1:] + values[:1],
        f"{name}[2:] + {name}[:2]": values[2:] + values[:2],
    }
    expression = rng.choice(list(results))
    right = results.pop(expression)
    choices, answer = shuffled(rng, [str(v) for v in [right, *results.values()]])
    return Item(
        f"{values} {expression}", frame(f"{name} = {values}; {expression}"), choices, answer
    )


def _trace(rng: random.Random) -> Item:
    first, second = rng.sample(NAMES, 2)
    a, b, operator, value = _operands(rng, 2, 30)
    forms = (
        f"{first} = {a}; {second} = {b}; {first} {operator} {second}",
        f"{second} = {b}; {first} = {a}; {first} {operator} {second}",
        f"{first} = {a}; {first} {operator}= {b}; {first}",
    )
    choices, answer = _number_choices(rng, value)
    return Item(f"{a} {operator} {b}", frame(rng.choice(forms)), choices, answer)


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
    return Item(f"write {left} {word} {right}", frame(question), choices, answer)


def code(rng: random.Random) -> Item:
    """Values of small Python snippets, and Python for an expression in words."""
    kinds = (_list_element, _list_element, _list_order, _trace, _write_expression)
    return rng.choice(kinds)(rng)


TASKS: dict[str, Generator] = {"translation": translation, "math": math, "code": code}
