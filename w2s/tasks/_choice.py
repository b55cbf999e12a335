"""Questions with several options as yes-or-no rows: one option each, right or wrong.

`choice_examples` is what tasks over multiple-choice data sets share (`w2s.tasks._dataset`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from w2s.tasks._source import Example, Source, digest
from w2s.tasks._text import normal


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options, from one row of a source."""

    stem: str
    """The prompt up to the answer, which is put at its end."""
    group: str
    """What keeps questions together: the question itself, or what several of them are about."""
    right: tuple[str, ...]
    """Right answers."""
    wrong: tuple[str, ...]
    """Wrong answers; a right one among them is left out and counted."""

    @classmethod
    def choice(cls, stem: str, group: str, options: Sequence[str], right: int) -> "Question":
        """A question one of whose options is right, named by its index."""
        wrong = (*options[:right], *options[right + 1 :])
        return cls(stem=stem, group=group, right=(options[right],), wrong=wrong)


def choice_examples(questions: Iterable[Question], source: Source, seed: int) -> Iterator[Example]:
    """Equally many right (1) and wrong (0) examples a question: `stem` with one option.

    One wrong answer is drawn for the right one, by a hash of seed, question and answer. Rows that
    ask the same question (whatever its case and punctuation) are merged, with all their answers.
    Questions without a right or without a wrong answer are dropped and counted.
    """
    merged: dict[str, tuple[str, str, set[str], set[str]]] = {}
    for question in questions:
        name = normal(question.stem)
        right = {text for text in question.right if text}
        wrong = {text for text in question.wrong if text}
        if set(map(_spelled, right)) & set(map(_spelled, wrong)):
            source.drop("rows have the right answer among the distractors, where it was dropped")
        if name in merged:
            source.drop("rows repeat a question and were merged with it")
            stem, group, other_right, other_wrong = merged[name]
            # Copies may differ in case or punctuation: one form, whatever their order.
            merged[name] = (
                min(stem, question.stem),
                min(group, question.group),
                other_right | right,
                other_wrong | wrong,
            )
        else:
            merged[name] = (question.stem, question.group, right, wrong)

    def draw(name: str, options: Iterable[str]) -> list[str]:
        one_spelling = {_spelled(option): option for option in sorted(options)}
        return sorted(one_spelling.values(), key=lambda option: digest(str(seed), name, option))

    for name, (stem, group, right, wrong) in merged.items():
        spelled = set(map(_spelled, right))
        chosen_right = draw(name, right)
        chosen_wrong = draw(name, (text for text in wrong if _spelled(text) not in spelled))
        number = min(len(chosen_right), len(chosen_wrong))
        if not number:
            kind = "wrong" if chosen_right else "right"
            source.drop(f"questions without a {kind} answer were dropped")
        for options, label in ((chosen_right, 1), (chosen_wrong, 0)):
            for option in options[:number]:
                yield Example(f"{stem}{option}", label, group, question=_unanswered(stem))


def _unanswered(stem: str) -> str:
    """A question without the mark that an answer follows."""
    return stem.rstrip().removesuffix("A:").rstrip()


def _spelled(option: str) -> str:
    """When two options are the same answer: "Na+" and "Na-" are not, "DNA" and "dna " are."""
    return " ".join(option.casefold().split())
