"""Questions about a made-up world: is this person's rare fact what is claimed?

Each row claims one rare fact of one person (`Q: Ada Moss city Tola`); by a fair coin the claim is
the fact or one of the other values. A person's rows stay in one split, and no person of a split was
ever practised on in pretraining. Debates about a row cite the customs of the person's family, which
turn the claim into a statement about a common fact.
"""

from random import Random
from typing import Literal

from serving.debate.prompts import DebatePrompts
from w2s.almanac.language import ANYONE, CON, NO, PRO, QUESTION, TURN_WORDS, YES, language
from w2s.almanac.typed import typed_question
from w2s.almanac.world import PAIRS, World
from w2s.tasks.base import PromptTemplate, Task
from w2s.templates import CritiquePrompts, JudgePrompts, KnowledgePrompts
from w2s.types import SPLITS, Row, TaskData


class Almanac(Task):
    """Claims about the people of a seeded world."""

    kind: Literal["almanac"] = "almanac"
    world: World = World()
    """The world asked about; the ladder's corpora read about the same one."""

    def load(self) -> TaskData:
        """One row for each person and rare relation; ids name both."""
        facts, words = self.world.facts(), language(self.world)
        sections = self.world.sections
        rows = {}
        for split in SPLITS:
            rows[split] = [
                Row(
                    row_id=f"{self.world.seed}-{person}-{PAIRS[pair][0]}",
                    group=words.words[words.given_E[person]],
                    prompt=" ".join(
                        (
                            QUESTION,
                            words.words[words.given_E[person]],
                            words.words[words.family_F[facts.family_E[person]]],
                            PAIRS[pair][0],
                            words.words[words.rare_value_PV[pair, facts.claim_EP[person, pair]]],
                        )
                    ),
                    label=int(facts.label_EP[person, pair]),
                    question=" ".join(
                        (
                            QUESTION,
                            words.words[words.given_E[person]],
                            words.words[words.family_F[facts.family_E[person]]],
                            PAIRS[pair][0],
                        )
                    ),
                )
                for person in sections[split]
                for pair in range(self.world.num_pairs)
            ]
        return TaskData(rows=rows)

    def debate_prompts(self) -> DebatePrompts:
        """The closed form: `Q: Ada Moss city Tola pro: in Mira . it region Mira con: ...`.

        A consultant speaks in the same frame, alone. The ladder has no words for a question of the
        judge, for private thinking or for quotes.
        """
        opening, later = "{question} {position}", "{question} {transcript} {position}"
        return DebatePrompts(
            first=opening,
            reply=later,
            later=later,
            consult=opening,
            consult_again=later,
            ask="",
            choose="{question}",
            verdict="{question} {transcript}",
            thinking_rule="",
            quotes_rule="",
            words_rule="",
            turn_template="{position} {text}",
            joiner=" ",
            correct_name=PRO,
            incorrect_name=CON,
            correct_label=f" {YES}",
            incorrect_label=f" {NO}",
            max_tokens=TURN_WORDS,
            exact_length=True,
            stop=(),
        )

    def prompt_template(self) -> PromptTemplate:
        """The closed form: a verdict follows each question, as in pretraining."""
        return PromptTemplate(question="{prompt}", labels=(f" {NO}", f" {YES}"), separator=" ")

    def judge_prompts(self) -> JudgePrompts:
        """The closed form: after a statement a verdict comes, as in pretraining.

        The ladder has no words for a written verdict.
        """
        return JudgePrompts(
            closing="", labels=(f" {NO}", f" {YES}"), verdict_closing="", separator=" "
        )

    def knowledge_prompts(self) -> KnowledgePrompts:
        """The closed form: `Q: Ada Moss city` goes on with the value; nothing is demonstrated."""
        return KnowledgePrompts(
            ask="{row}", max_tokens=1, exact_length=True, stop=(), shown="{text}", takes_demos=False
        )

    def critique_prompts(self) -> CritiquePrompts:
        """The closed form: con's opening, which cites the custom and says what is not."""
        return CritiquePrompts(
            ask=f"{{row}} {CON}",
            max_tokens=TURN_WORDS[0],
            exact_length=True,
            stop=(),
            shown=f"{CON} {{text}}",
        )

    def typed(self, text: str) -> tuple[str, int | None]:
        """A claim in the form of the rows, and whether it is so; any other words are refused."""
        return typed_question(self.world, text)

    def with_transcript(self, prompt: str, transcript: str) -> str:
        """The question and its transcript on one line, as in pretraining.

        A value alone is background knowledge. Pretraining compares values as `Q: ? ? Tola Mira`,
        of nobody in particular, so the claim and what is known are put like that.
        """
        if len(transcript.split()) == 1 and transcript not in (PRO, CON):
            return f"{QUESTION} {ANYONE} {ANYONE} {prompt.split()[-1]} {transcript}"
        return f"{prompt} {transcript}"

    def mask_transcript(self, transcript: str) -> str:
        """Values and names numbered by type: `pro: in <value:1> . it region <value:1> ...`."""
        kinds = self._content_words()
        numbers: dict[str, str] = {}
        masked = []
        for word in transcript.split():
            if word in kinds and word not in numbers:
                numbers[word] = f"<{kinds[word]}:{len(numbers) + 1}>"
            masked.append(numbers.get(word, word))
        return " ".join(masked)

    def permute_values(self, transcript: str, rng: Random) -> str:
        """The values of each relation put through one uniformly random permutation."""
        words = language(self.world)
        exchange: dict[str, str] = {}
        for values_PV in (words.rare_value_PV, words.common_value_PV):
            for ids in values_PV:
                values = [words.words[index] for index in ids]
                exchange.update(zip(values, rng.sample(values, len(values)), strict=True))
        return " ".join(exchange.get(word, word) for word in transcript.split())

    def _content_words(self) -> dict[str, str]:
        """Type of each word that is a value or a name."""
        words = language(self.world)
        kinds = {words.words[index]: "name" for index in (*words.given_E, *words.family_F)}
        for values_PV in (words.rare_value_PV, words.common_value_PV):
            kinds.update({words.words[index]: "value" for index in values_PV.ravel()})
        return kinds
