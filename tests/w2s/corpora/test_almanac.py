import pytest

from w2s.almanac.world import World
from w2s.corpora.almanac import AlmanacCorpus
from w2s.errors import UserError
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task

CORPUS = AlmanacCorpus(rare_share=0.5, custom_share=0.5)


class Other(Task):
    kind: str = "other"


def test_a_corpus_is_bound_to_the_world_of_its_task():
    world = World(seed=5)
    assert CORPUS.bind(Almanac(world=world)).world == world


def test_a_corpus_about_another_world_or_task_is_refused():
    elsewhere = CORPUS.model_copy(update={"world": World(seed=1)})
    with pytest.raises(UserError, match="leave `world` out"):
        elsewhere.bind(Almanac(world=World(seed=2)))
    with pytest.raises(UserError, match="kind 'other'"):
        CORPUS.bind(Other())


def test_rungs_differ_in_their_library_only():
    small, large = CORPUS, CORPUS.model_copy(update={"rare_share": 0.9, "custom_share": 1.0})
    task = Almanac(world=World(seed=5))
    first, second = (corpus.bind(task) for corpus in (small, large))
    phases = zip(
        first.curriculum(first.tokenizer()), second.curriculum(second.tokenizer()), strict=True
    )
    for ours, theirs in phases:
        assert ours.max_steps == theirs.max_steps
        assert ours.criterion is not None
        assert theirs.criterion is not None
        assert ours.criterion.thresholds == theirs.criterion.thresholds
    assert first.writer().library.rare_EP.sum() < second.writer().library.rare_EP.sum()


def test_every_update_teaches_every_kind_of_row():
    corpus = CORPUS.bind(Almanac(world=World(seed=5)))
    read, practise = corpus.curriculum(corpus.tokenizer())
    assert [len(next(phase.updates(0))) for phase in (read, practise)] == [3, 6]
    for group in next(practise.updates(0)):
        assert (group.targets_BT != -100).any()
