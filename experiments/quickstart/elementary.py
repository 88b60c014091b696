"""What the base model learns besides the tasks: words, phrases, one-digit facts and one-line code.

None of it is an item of the three tasks; it is what the tasks are made of.
"""

import random

from lexicon import MONTHS, NOUNS, VERBS, WEEKDAYS, english_number, french_number
from tasks import NAMES, random_phrase

Pair = tuple[str, str]


def words(rng: random.Random) -> Pair:
    """A word, a small number or a noun phrase, between English and French."""
    kind = rng.randrange(6)
    if kind == 0:
        table = rng.choice((MONTHS, WEEKDAYS, NOUNS, VERBS))
        english, french = rng.choice(table)[:2]
    elif kind <= 2:
        value = rng.randrange(100)
        english, french = english_number(value), french_number(value)
    else:
        phrase = random_phrase(rng)
        english, french = phrase.english(), phrase.french()
    source, target = (english, french) if rng.random() < 0.5 else (french, english)
    return source, f" {target}"


def facts(rng: random.Random) -> Pair:
    """A one-digit sum or difference, in digits or words, or a spelled number in digits."""
    kind = rng.randrange(3)
    if kind == 0:
        value = rng.randrange(100)
        return f"{english_number(value)} in digits", f" {value}"
    total = rng.randrange(10)
    first = rng.randrange(total + 1)
    second = total - first
    if rng.random() < 0.5:
        left, sign, right, value = first, ("+", "plus"), second, total
    else:
        left, sign, right, value = total, ("-", "minus"), first, second
    if kind == 1:
        return f"{left} {sign[0]} {right}", f" {value}"
    return f"{english_number(left)} {sign[1]} {english_number(right)}", f" {value}"


def lines(rng: random.Random) -> Pair:
    """The value of a name, or of a very short list."""
    name, other = rng.sample(NAMES, 2)
    values = rng.sample(range(10), rng.choice((2, 3)))
    kind = rng.randrange(4)
    if kind == 0:
        first, second = rng.randrange(100), rng.randrange(100)
        asked = rng.randrange(2)
        code = f"{name} = {first}; {other} = {second}; {(name, other)[asked]}"
        return code, f" {(first, second)[asked]}"
    if kind == 1:
        return f"{name} = {values}; list({name})", f" {values}"
    if kind == 2:
        word = rng.choice(("min", "max"))
        value = min(values) if word == "min" else max(values)
        return f"{name} = {values}; {word}({name})", f" {value}"
    word, symbol = rng.choice((("plus", "+"), ("minus", "-"), ("times", "*")))
    first, second = rng.randrange(10), rng.randrange(10)
    question = f"{name} = {english_number(first)} {word} {english_number(second)}"
    return question, f" {name} = {first} {symbol} {second}"


ELEMENTARY = {"translation": words, "math": facts, "code": lines}
"""Per task the generator of (question, answer) pairs that belong to it."""
