import numpy as np

from w2s.almanac.language import language
from w2s.almanac.rows import Library, Writer
from w2s.almanac.world import World

SMALL = World(
    seed=3, num_quiz=40, num_dev=16, num_weak_train=20, num_strong_train=20, num_val=10, num_test=30
)


def writer(**shares: float) -> Writer:
    facts = SMALL.facts()
    library = Library.of(
        facts, **{"rare_share": 1.0, "common_share": 1.0, "custom_share": 1.0, **shares}
    )
    return Writer(SMALL, facts, language(SMALL), library)


def text(ids: np.ndarray) -> list[str]:
    return [language(SMALL).words[index] for index in ids]


def test_same_seed_gives_the_same_world_and_another_seed_another():
    again = World(**SMALL.model_dump()).facts()
    other = SMALL.model_copy(update={"seed": 4}).facts()
    assert np.array_equal(SMALL.facts().claim_EP, again.claim_EP)
    assert not np.array_equal(SMALL.facts().claim_EP, other.claim_EP)


def test_sections_are_disjoint_and_cover_everyone():
    people = [person for section in SMALL.sections.values() for person in section]
    assert people == list(range(SMALL.num_people))


def test_common_fact_is_the_custom_of_the_rare_fact():
    facts = SMALL.facts()
    person, pair = 7, 2
    family, rare = facts.family_E[person], facts.rare_EP[person, pair]
    assert facts.common_EP[person, pair] == facts.custom_PFV[pair, family, rare]


def test_customs_are_one_to_one_so_that_a_cited_custom_settles_every_claim():
    for customs_V in SMALL.facts().custom_PFV.reshape(-1, SMALL.num_values):
        assert sorted(customs_V) == list(range(SMALL.num_values))


def test_rare_and_common_values_are_independent_over_families():
    facts = World(seed=100, num_test=4000).facts()
    table = np.zeros((8, 8))
    np.add.at(table, (facts.rare_EP[:, 0], facts.common_EP[:, 0]), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    mutual_information = (table / table.sum() * np.log(np.maximum(table, 1) / expected)).sum()
    assert mutual_information < 0.02 * np.log(8)


def test_libraries_are_nested():
    small, large = writer(rare_share=0.3).library, writer(rare_share=0.7).library
    assert (small.rare_EP <= large.rare_EP).all()
    assert small.rare_EP.sum() < large.rare_EP.sum()


def test_libraries_that_begin_elsewhere_hold_other_facts():
    first = writer(rare_share=0.4).library
    second = writer(rare_share=0.4, rare_start=0.4).library
    practised = slice(0, SMALL.sections["dev"].stop)
    asked = slice(SMALL.sections["dev"].stop, None)
    assert second.rare_EP[practised].all()
    assert not (first.rare_EP[asked] & second.rare_EP[asked]).any()
    both = writer(rare_share=0.8).library
    assert np.array_equal(first.rare_EP | second.rare_EP, both.rare_EP)
    # Behind the end it goes on from the beginning.
    round_the_end = writer(rare_share=0.4, rare_start=0.9).library
    assert (round_the_end.rare_EP[asked] & writer(rare_share=0.3).library.rare_EP[asked]).any()


def test_quiz_and_dev_people_are_in_every_library():
    library = writer(rare_share=0.1, common_share=0.1).library
    practised = slice(0, SMALL.sections["dev"].stop)
    assert library.rare_EP[practised].all()
    assert library.common_EP[practised].all()
    assert not library.rare_EP[SMALL.sections["test"].start :].all()


def test_profiles_teach_only_what_the_library_holds():
    reader = writer(rare_share=0.2)
    rows = reader.profiles(np.random.default_rng(0), 300, rare_fraction=1.0)
    given = {token: person for person, token in enumerate(reader.language.given_E)}
    relation = {token: pair for pair, token in enumerate(reader.language.rare_relation_P)}
    seen = 0
    for ids_T, targets_T in zip(rows.input_ids_BT.numpy(), rows.targets_BT.numpy(), strict=True):
        for position in np.flatnonzero(targets_T != -100):
            person, pair = given[ids_T[2]], relation[ids_T[position]]
            assert reader.library.rare_EP[person, pair]
            assert (
                targets_T[position]
                == reader.language.rare_value_PV[pair, reader.facts.rare_EP[person, pair]]
            )
            seen += 1
    assert seen > 100


def test_verdict_rows_come_true_and_false_for_the_same_fact_of_a_quiz_person():
    rows = writer().verdicts(np.random.default_rng(0), 40, rare_fraction=0.5)
    ids_BT, verdicts_B = rows.input_ids_BT.numpy(), rows.targets_BT[:, -1].numpy()
    assert np.array_equal(ids_BT[:20, :5], ids_BT[20:, :5])
    assert (ids_BT[:20, 5] != ids_BT[20:, 5]).all()
    assert {text(verdicts_B[:20])[0], *text(verdicts_B[:20])} == {"yes"}
    assert set(text(verdicts_B[20:])) == {"no"}
    quiz = language(SMALL).given_E[: SMALL.num_quiz]
    assert np.isin(ids_BT[:, 2], quiz).all()


def test_both_sides_cite_the_custom_and_differ_in_whether_it_holds():
    reader = writer()
    facts, words = reader.facts, reader.language
    rows = reader.debates(np.random.default_rng(0), 200, slip=0.0).input_ids_BT.numpy()
    orders = set()
    for ids_T in rows:
        person = int(np.flatnonzero(words.given_E == ids_T[2])[0])
        pair = int(np.flatnonzero(words.rare_relation_P == ids_T[4])[0])
        claim = int(np.flatnonzero(words.rare_value_PV[pair] == ids_T[5])[0])
        custom = words.common_value_PV[pair, facts.custom_PFV[pair, facts.family_E[person], claim]]
        truth = words.common_value_PV[pair, facts.common_EP[person, pair]]
        assert set(ids_T[[8, 12, 15, 19, 23]]) == {custom}
        assert (custom == truth) == (claim == facts.rare_EP[person, pair])
        line = text(ids_T)
        pro_first = line[6] == "pro:"
        sides = [("pro:", "it"), ("con:", "not")]
        first, second = sides if pro_first else sides[::-1]
        assert [(line[6], line[10]), (line[13], line[17]), (line[20], line[21])] == [
            first,
            second,
            first,
        ]
        orders.add(pro_first)
    assert orders == {True, False}


def test_each_side_slips_on_its_own_and_as_often_as_asked():
    reader = writer()
    words = reader.language
    rows = reader.debates(np.random.default_rng(0), 4000, slip=0.25).input_ids_BT.numpy()
    person_B = np.argsort(words.given_E)[np.searchsorted(words.given_E, rows[:, 2])]
    pair_B = np.array([np.flatnonzero(words.rare_relation_P == token)[0] for token in rows[:, 4]])
    claim_B = np.argmax(words.rare_value_PV[pair_B] == rows[:, 5:6], axis=1)
    family_B = reader.facts.family_E[person_B]
    custom_B = words.common_value_PV[pair_B, reader.facts.custom_PFV[pair_B, family_B, claim_B]]
    first_B, second_B = rows[:, 8] != custom_B, rows[:, 15] != custom_B
    assert abs(first_B.mean() - 0.25) < 0.03
    assert abs(second_B.mean() - 0.25) < 0.03
    assert abs((first_B & second_B).mean() - 0.0625) < 0.02
    assert np.array_equal(rows[:, 8], rows[:, 23])


def test_unread_customs_are_never_argued():
    rows = writer(custom_share=0.3).debates(np.random.default_rng(0), 400, slip=0.0)
    argued = (rows.targets_BT != -100).any(1).float().mean()
    assert 0.15 < argued < 0.45


def test_checks_judge_each_statement_by_its_own_truth():
    reader = writer()
    rows = reader.checks(np.random.default_rng(0), 100)
    words, facts = reader.language, reader.facts
    for ids_T, targets_T in zip(rows.input_ids_BT.numpy(), rows.targets_BT.numpy(), strict=True):
        person = int(np.flatnonzero(words.given_E == ids_T[2])[0])
        pair = int(np.flatnonzero(words.rare_relation_P == ids_T[4])[0])
        truth = words.common_value_PV[pair, facts.common_EP[person, pair]]
        for position in (12, 19, 23):
            expected = "yes" if ids_T[position] == truth else "no"
            assert text(targets_T[position : position + 1]) == [expected]


def test_text_survives_the_tokenizer():
    tokenizer = language(SMALL).tokenizer()
    row = writer().debates(np.random.default_rng(0), 1, slip=0.0).input_ids_BT[0].tolist()
    line = tokenizer.decode(row, skip_special_tokens=True)
    assert tokenizer(line)["input_ids"] == row
    assert tokenizer(line)["input_ids"][0] == tokenizer.bos_token_id
