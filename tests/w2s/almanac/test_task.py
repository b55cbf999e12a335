from random import Random

import numpy as np

from serving.debate.types import Question, Turn
from w2s.almanac.language import language
from w2s.almanac.rows import Library, Writer
from w2s.almanac.world import World
from w2s.tasks.almanac import Almanac

SMALL = World(
    seed=3, num_quiz=40, num_dev=16, num_weak_train=20, num_strong_train=20, num_val=10, num_test=30
)
TASK = Almanac(world=SMALL)
TRANSCRIPT = "pro: in {a} . it region {a} con: in {b} . not region {b} pro: it region {a}"


def regions() -> list[str]:
    words = language(SMALL)
    return [words.words[index] for index in words.common_value_PV[0]]


def transcript() -> str:
    return TRANSCRIPT.format(a=regions()[0], b=regions()[1])


def test_rows_of_one_person_share_a_split_and_ids_are_unique():
    rows = TASK.load().rows
    groups = {split: {row.group for row in of_split} for split, of_split in rows.items()}
    assert len(set().union(*groups.values())) == sum(len(group) for group in groups.values()) == 80
    ids = [row.row_id for of_split in rows.values() for row in of_split]
    assert len(set(ids)) == len(ids) == 320


def test_labels_say_whether_the_claim_is_the_fact():
    facts, words = SMALL.facts(), language(SMALL)
    row = TASK.load().rows["test"][5]
    person, pair = SMALL.sections["test"].start + 1, 1
    fact = words.words[words.rare_value_PV[pair, facts.rare_EP[person, pair]]]
    assert row.label == int(row.prompt.split()[-1] == fact)


def test_shipped_world_asks_a_thousand_balanced_test_questions():
    rows = Almanac(world=World(seed=100)).load().rows["test"]
    assert len(rows) >= 1000
    assert abs(np.mean([row.label for row in rows]) - 0.5) < 0.05


def test_a_debate_reads_as_in_pretraining():
    prompts = TASK.debate_prompts()
    words, facts = language(SMALL), SMALL.facts()
    writer = Writer(
        SMALL, facts, words, Library.of(facts, rare_share=1, common_share=1, custom_share=1)
    )
    ids = writer.debates(np.random.default_rng(0), 8, slip=0.0).input_ids_BT[3].tolist()
    line = [words.words[index] for index in ids[1:]]
    question, spoken = " ".join(line[:5]), line[5:]
    turns, seen = [], 0
    for index, count in enumerate(prompts.max_tokens):
        position = "correct" if spoken[seen] == prompts.correct_name else "incorrect"
        side = "A" if index % 2 == 0 else "B"
        prompt = prompts.prompt(Question("x", question), side, position, index, turns)
        assert prompt.split() == line[: 5 + seen + 1]
        argument = " ".join(spoken[seen + 1 : seen + 1 + count])
        turns.append(Turn(side, position, argument, count, "length", 0, "m", "d"))
        seen += count + 1
    assert TASK.with_transcript(question, prompts.render(turns)).split() == line


def test_mask_keeps_words_positions_and_equalities_only():
    expected = TRANSCRIPT.format(a="<value:1>", b="<value:2>")
    assert TASK.mask_transcript(transcript()) == expected


def test_permuted_values_keep_the_pattern_and_spread_evenly():
    counts = dict.fromkeys(regions(), 0)
    for seed in range(800):
        permuted = TASK.permute_values(transcript(), Random(seed))
        assert TASK.mask_transcript(permuted) == TASK.mask_transcript(transcript())
        counts[permuted.split()[2]] += 1
    assert min(counts.values()) > 60


def test_a_consultancy_reads_as_the_opening_of_a_debate():
    prompts = TASK.debate_prompts()
    question = Question("x", "Q: Ada Moss city Tola")
    opening = prompts.prompt(question, "A", "incorrect", 0, [])
    assert prompts.prompt(question, "A", "incorrect", 0, [], consults=True) == opening
    turn = Turn("A", "incorrect", "in Mira . not region Mira", 6, "length", 0, "m", "d")
    assert prompts.render([turn]) == "con: in Mira . not region Mira"
    assert prompts.verdict_prompt(question, [turn]) == f"{question.text} {prompts.render([turn])}"
    assert prompts.choice_prompt(question) == question.text
    assert prompts.labels == (" yes", " no") == TASK.prompt_template().labels[::-1]


def test_background_knowledge_is_compared_with_the_claim_as_pretraining_compares_values():
    row = next(iter(TASK.load().rows["test"]))
    assert row.prompt.startswith(f"{row.question} ")
    claim = row.prompt.split()[-1]
    templates = TASK.knowledge_prompts()
    # What is asked for is the word that follows the question, and nothing of the claim is in it.
    assert templates.render(row.question) == row.question
    assert claim not in templates.render(row.question).split()
    assert TASK.with_transcript(row.prompt, "Mira") == f"Q: ? ? {claim} Mira"
    # A debate whose only argument is cut away is no value.
    assert TASK.with_transcript(row.prompt, "pro:") == f"{row.prompt} pro:"


def test_a_critique_reads_as_the_opening_of_con():
    templates = TASK.critique_prompts()
    assert templates.render("Q: Ada Moss city Tola") == "Q: Ada Moss city Tola con:"
    assert templates.shown.replace("{text}", "in Mira . not region Mira") == (
        "con: in Mira . not region Mira"
    )
