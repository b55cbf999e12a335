"""What tasks over free text share: when two texts are the same, and what is left of a text without its content words."""

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")

FUNCTION_WORDS = frozenset(
    """
    a about above after again against all also although always am an and another any are as at be because been before
    being below between both but by can cannot could did do does doing down during each either else enough even ever
    every few first for from further had has have having he hence her here hers him his how however i if in indeed
    instead into is it its itself just last least less like many may me might mine more most much must my myself
    neither never next no none nor not now of off often on once one only or other others our out over own per perhaps
    quite rather same second shall she should since so some still such than that the their them then there therefore
    these they third this those though through thus to too under until up upon us very was we well were what when
    where whether which while who whom whose why will with within without would yes yet you your yours
    argue argument answer claim correct debate debater evidence fact false flaw incorrect opponent question reason
    right side true wrong
    isn't aren't wasn't weren't don't doesn't didn't can't couldn't won't wouldn't shouldn't it's that's there's
    """.split()
)
"""Words that carry form and stance, those of a debate included; all others are content."""


def normal(text: str) -> str:
    """The words of a text in lower case, without punctuation: equal for texts that differ in nothing else."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def mask_content_words(text: str) -> str:
    """The text with each content word replaced by `<word:n>` or `<number:n>`, numbered in order of first appearance.

    Case, punctuation and function words stay; equal words (whatever their case) get equal markers.
    """
    numbers: dict[str, int] = {}

    def mark(match: re.Match[str]) -> str:
        word = match.group().casefold().replace("’", "'")
        if word in FUNCTION_WORDS or len(word) == 1 and word.isalpha():
            return match.group()
        number = numbers.setdefault(word, len(numbers) + 1)
        return f"<{'number' if word.isdigit() else 'word'}:{number}>"

    return _WORD.sub(mark, text)
