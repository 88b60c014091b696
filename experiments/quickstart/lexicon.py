"""English and French words, and the numbers of both languages.

Nouns and adjectives start with a consonant, so French needs no elision.
"""

from dataclasses import dataclass

MONTHS = tuple(
    pair.split(":")
    for pair in (
        "january:janvier february:février march:mars april:avril may:mai june:juin july:juillet "
        "august:août september:septembre october:octobre november:novembre december:décembre"
    ).split()
)
WEEKDAYS = tuple(
    pair.split(":")
    for pair in (
        "monday:lundi tuesday:mardi wednesday:mercredi thursday:jeudi friday:vendredi "
        "saturday:samedi sunday:dimanche"
    ).split()
)
# English, French, gender.
NOUNS = tuple(
    entry.split(":")
    for entry in (
        "cat:chat:m dog:chien:m bread:pain:m book:livre:m garden:jardin:m boat:bateau:m "
        "train:train:m castle:château:m knife:couteau:m hat:chapeau:m king:roi:m fish:poisson:m "
        "bridge:pont:m cake:gâteau:m brother:frère:m father:père:m baker:boulanger:m "
        "coat:manteau:m cheese:fromage:m wall:mur:m forest:forêt:f house:maison:f door:porte:f "
        "car:voiture:f table:table:f window:fenêtre:f flower:fleur:f girl:fille:f sister:sœur:f "
        "mother:mère:f queen:reine:f cow:vache:f key:clé:f street:rue:f town:ville:f "
        "letter:lettre:f chair:chaise:f apple:pomme:f mountain:montagne:f shirt:chemise:f"
    ).split()
)
# English, French masculine, French feminine, place relative to the noun.
ADJECTIVES = tuple(
    entry.split(":")
    for entry in (
        "red:rouge:rouge:after green:vert:verte:after blue:bleu:bleue:after "
        "black:noir:noire:after white:blanc:blanche:after yellow:jaune:jaune:after "
        "big:grand:grande:before small:petit:petite:before pretty:joli:jolie:before "
        "bad:mauvais:mauvaise:before good:bon:bonne:before heavy:lourd:lourde:after "
        "cold:froid:froide:after hot:chaud:chaude:after young:jeune:jeune:before "
        "clean:propre:propre:after strong:fort:forte:after long:long:longue:before"
    ).split()
)
VERBS = tuple(
    pair.split(":")
    for pair in (
        "sees:voit loves:aime wants:veut takes:prend finds:trouve seeks:cherche sells:vend "
        "buys:achète hides:cache holds:tient knows:connaît touches:touche paints:peint "
        "follows:suit"
    ).split()
)
# English, French masculine, French feminine.
DETERMINERS = tuple(
    entry.split(":") for entry in "the:le:la a:un:une my:mon:ma this:ce:cette your:ton:ta".split()
)

_EN_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_EN_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_FR_SMALL = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze "
    "seize dix-sept dix-huit dix-neuf"
).split()
_FR_TENS = "- - vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()


@dataclass(frozen=True)
class NounPhrase:
    """Determiner, adjective and noun, each an index into its table."""

    determiner: int
    adjective: int
    noun: int

    def english(self) -> str:
        """Render in English."""
        words = (DETERMINERS[self.determiner], ADJECTIVES[self.adjective], NOUNS[self.noun])
        return " ".join(word[0] for word in words)

    def french(self) -> str:
        """Render in French, with agreement and the adjective in its place."""
        _, noun, gender = NOUNS[self.noun]
        form = 1 if gender == "m" else 2
        adjective = ADJECTIVES[self.adjective]
        pair = [adjective[form], noun] if adjective[3] == "before" else [noun, adjective[form]]
        return " ".join([DETERMINERS[self.determiner][form], *pair])


def english_number(value: int) -> str:
    """Spell a number below ten thousand in English."""
    if value < 20:
        return _EN_SMALL[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _EN_TENS[tens] + (f"-{_EN_SMALL[ones]}" if ones else "")
    unit, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    high, low = divmod(value, unit)
    return f"{_EN_SMALL[high]} {name}" + (f" {english_number(low)}" if low else "")


def french_number(value: int) -> str:
    """Spell a number below ten thousand in French."""
    if value < 20:
        return _FR_SMALL[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        if tens in (7, 9):
            ones += 10
        if value == 80:
            return "quatre-vingts"
        if not ones:
            return _FR_TENS[tens]
        joint = " et " if ones in (1, 11) and tens < 8 else "-"
        return f"{_FR_TENS[tens]}{joint}{_FR_SMALL[ones]}"
    unit, name = (1000, "mille") if value >= 1000 else (100, "cent")
    high, low = divmod(value, unit)
    head = name if high == 1 else f"{_FR_SMALL[high]} {name}"
    if unit == 100 and high > 1 and not low:
        head += "s"
    return head + (f" {french_number(low)}" if low else "")
