"""The search loop and the pool of this process."""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from twins_nas.arch import ArchConfig
from twins_nas.data import Images
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.tuning.objective import Payload, factory
from twins_nas.tuning.results import Score, Scored
from twins_nas.tuning.runner import DEATHS, PATIENCE, Done, Evaluator, LocalPool, run_search
from twins_nas.tuning.spec import StudySpec
from twins_nas.tuning.study import Search, SearchStudy
from twins_nas.tuning.toy import Toy, toy_cost, toy_space

SPACE = toy_space()
COST = toy_cost(SPACE)


def search_of(trials: int) -> Search:
    """A small search."""
    return Search(SPACE, StudySpec(trials, population=10), COST)


class DyingPool(LocalPool):
    """A pool whose process dies a number of times under some tickets."""

    def __init__(self, deaths: dict[int, int], size: int = 1) -> None:
        super().__init__(Toy(SPACE))
        self.size, self.deaths, self.tries = size, deaths, dict.fromkeys(deaths, 0)

    def next_done(self) -> Done:
        """Dies, or evaluates."""
        ticket, _ = self._queue[0]
        if ticket in self.tries:
            self.tries[ticket] += 1
            if self.tries[ticket] <= self.deaths[ticket]:
                self._queue.popleft()
                return Done(ticket, "its process died", died=True)
        return super().next_done()


def test_a_row_is_in_the_journal_when_it_is_given(tmp_path: Path) -> None:
    """Whoever looks at the journal inside the callback finds the row, in the order of numbers."""
    search = search_of(25)
    study = SearchStudy(tmp_path, search, 0)
    seen: list[int] = []

    def on_scored(row: Scored) -> None:
        look = SearchStudy.look(tmp_path, search, 0)
        assert look is not None and row in look.scored
        seen.append(row.number)

    run_search(study, LocalPool(Toy(SPACE)), on_scored)
    study.close()
    assert seen == list(range(25))


def test_a_stopped_search_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    """Stopped every few trials, a search gives each row once, and those of an unbroken one."""
    search = search_of(40)
    study = SearchStudy(tmp_path / "whole", search, 0)
    run_search(study, LocalPool(Toy(SPACE)))
    study.close()
    rows: list[Scored] = []
    starts = 0
    while len(rows) < 40:
        part = SearchStudy(tmp_path / "parts", search, 0)
        end = len(rows) + 7
        run_search(part, LocalPool(Toy(SPACE)), rows.append, lambda end=end: len(rows) >= end)
        part.close()
        starts += 1
    assert rows == study.scored and starts == 6


def test_a_died_evaluation_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    """Twice more; then it is a failed trial with its reason, and the others are as ever."""
    search = search_of(20)
    whole = SearchStudy(tmp_path / "whole", search, 0)
    run_search(whole, LocalPool(Toy(SPACE)))
    study = SearchStudy(tmp_path / "dying", search, 0)
    pool = DyingPool({5: DEATHS})
    run_search(study, pool)
    assert study.scored == whole.scored and pool.tries == {5: DEATHS + 1}
    lost = SearchStudy(tmp_path / "lost", search, 0)
    pool = DyingPool({5: 100})
    run_search(lost, pool)
    assert pool.tries == {5: DEATHS + 1}
    assert [(one.number, one.reason) for one in lost.failed] == [(5, "its process died")]
    assert [row.number for row in lost.scored] == [n for n in range(20) if n != 5]


def test_an_exception_is_a_reason(tmp_path: Path) -> None:
    """An evaluator that raises loses that architecture only, without another try."""
    calls: list[ArchConfig] = []
    good = Toy(SPACE)()

    def factory() -> Evaluator:
        def score(arch: ArchConfig) -> Score:
            calls.append(arch)
            if arch == SPACE.base:
                raise RuntimeError("no memory")
            return good(arch)

        return score

    study = SearchStudy(tmp_path, search_of(12), 0)
    run_search(study, LocalPool(factory))
    assert [one.reason for one in study.failed] == ["RuntimeError: no memory"]
    assert calls.count(SPACE.base) == 1 and len(study.scored) == 11


def test_a_search_in_which_everything_fails_ends(tmp_path: Path) -> None:
    """With the last reason, instead of a front of nothing after all trials."""
    calls = []

    def factory() -> Evaluator:
        def score(arch: ArchConfig) -> Score:
            calls.append(arch)
            raise RuntimeError("wrong device")

        return score

    study = SearchStudy(tmp_path, search_of(100), 0)
    with pytest.raises(UserError, match="wrong device"):
        run_search(study, LocalPool(factory))
    assert len(calls) == PATIENCE


def test_more_evaluators_than_the_window_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search is the same; a sentence says why some evaluators idle."""
    search = search_of(15)
    few = SearchStudy(tmp_path / "few", search, 0)
    run_search(few, LocalPool(Toy(SPACE)))
    assert capsys.readouterr().err == ""
    many = SearchStudy(tmp_path / "many", search, 0)
    run_search(many, DyingPool({}, size=8))
    assert f"Only {search.spec.window} of 8 evaluators are busy" in capsys.readouterr().err
    assert many.scored == few.scored


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch's threads as they were, after an evaluator has set them to one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_an_evaluator_scores_as_the_model_that_it_came_from() -> None:
    """Weights and images go through the payload unchanged, read-only ones too, and stay so."""
    model = Backbone(SPACE, in_chans=3, num_classes=10)
    initialise(model, 0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    images = Images.from_numpy(pixels, rng.integers(0, 10, 40))
    mean, std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    sent = Payload.of(model, images, mean, std, batch_size=16)
    payload: Payload = pickle.loads(pickle.dumps(sent))
    assert isinstance(payload.images, tuple)
    arrays = {**payload.weights, "pixels": payload.images[0], "labels": payload.images[1]}
    assert payload.bytes == sum(array.nbytes for array in arrays.values())
    before = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = factory(payload)()
        archs = [SPACE.base, SPACE.extreme(-1), SPACE.extreme(+1)]
        archs += [SPACE.sample(random.Random(n)) for n in range(3)]
        found = [score(arch) for arch in archs]
    for arch, one in zip(archs, found, strict=True):
        wanted = evaluate(model, images, payload.mean, payload.std, arch, batch_size=16)
        assert (one.top1, one.n) == (wanted.top1, 40)
        assert one.loss == pytest.approx(wanted.loss, rel=1e-6)
    assert len({one.loss for one in found}) > 3
    for name, array in arrays.items():
        assert np.array_equal(array, before[name])
