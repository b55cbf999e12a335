"""Questions about a world that somebody types: checked word by word, for the language is closed.

The form is `Q: GIVEN FAMILY RELATION VALUE`, as in the rows of the task; `Q:` may be left out.
"""

from difflib import get_close_matches

from w2s.almanac.language import QUESTION, language
from w2s.almanac.world import PAIRS, World
from w2s.errors import UserError


def typed_question(world: World, text: str) -> tuple[str, int]:
    """The prompt of a question, and whether its claim is so (1) or not (0).

    Raises:
        UserError: a word is unknown, or stands where it has no place; the message has the form, an
            example, and what could be meant.
    """
    facts, words = world.facts(), language(world)
    given, family, relation, value = _four(world, text)
    people = {words.words[token]: person for person, token in enumerate(words.given_E)}
    person = _one_of(world, "given name", given, list(people), people)
    own = words.words[words.family_F[facts.family_E[person]]]
    if family != own:
        raise _refused(world, f"{given} is of the family {own}, not {family!r}")
    pairs = {PAIRS[pair][0]: pair for pair in range(world.num_pairs)}
    pair = _one_of(world, "relation", relation, list(pairs), pairs)
    values = {words.words[token]: place for place, token in enumerate(words.rare_value_PV[pair])}
    claim = _one_of(world, f"value of {relation}", value, list(values), values)
    prompt = " ".join((QUESTION, given, family, relation, value))
    return prompt, int(claim == facts.rare_EP[person, pair])


def _four(world: World, text: str) -> list[str]:
    words = text.removeprefix(QUESTION).split()
    if len(words) != 4:
        raise _refused(world, f"found {len(words)} words in {text!r}, needed 4")
    return words


def _one_of(world: World, what: str, word: str, allowed: list[str], places: dict[str, int]) -> int:
    if word in places:
        return places[word]
    near = get_close_matches(word, allowed, n=4) or get_close_matches(
        word.capitalize(), allowed, n=4
    )
    if near:
        hint = f"near it: {', '.join(near)}"
    else:
        more = ", ..." if len(allowed) > 12 else ""
        hint = f"there are: {', '.join(allowed[:12])}{more}"
    raise _refused(world, f"no {what} {word!r}; {hint}")


def _refused(world: World, reason: str) -> UserError:
    facts, words = world.facts(), language(world)
    person = world.sections["test"].start
    example = " ".join(
        words.words[token]
        for token in (
            words.given_E[person],
            words.family_F[facts.family_E[person]],
            words.rare_relation_P[0],
            words.rare_value_PV[0, facts.claim_EP[person, 0]],
        )
    )
    return UserError(
        f"a question about this world is {QUESTION} GIVEN FAMILY RELATION VALUE, such as "
        f"'{QUESTION} {example}': {reason}"
    )
