"""Studies on journals: what is proposed, what is kept, what survives."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.space import SearchSpace
from twins_nas.tuning.journal import Journal
from twins_nas.tuning.pareto import front
from twins_nas.tuning.results import Failed, Score, Scored
from twins_nas.tuning.runner import LocalPool, run_search
from twins_nas.tuning.spec import SAMPLERS, Budget, StudySpec
from twins_nas.tuning.study import Search, SearchStudy, journal_path
from twins_nas.tuning.toy import Toy, toy_cost, toy_space

SPACE = toy_space()
COST = toy_cost(SPACE)
TRIALS = {"nsga2": 60, "random": 60, "tpe": 25}


def asked_for(sampler: str = "nsga2", trials: int = 0, budget: Budget | None = None) -> Search:
    """A small search."""
    number = trials or TRIALS[sampler]
    spec = StudySpec(number, sampler=sampler, population=10, budget=budget or Budget())
    return Search(SPACE, spec, COST)


def run(folder: Path, search: Search, seed: int = 0) -> SearchStudy:
    """The search, from where its journal is, to its end; its study is closed."""
    study = SearchStudy(folder, search, seed)
    run_search(study, LocalPool(Toy(search.space)))
    study.close()
    return study


def tell(study: SearchStudy, wanted: Callable[[ArchConfig], Score | str]) -> list[Scored | Failed]:
    """Runs a study to its end by hand."""
    told = []
    while True:
        step = study.advance()
        told += step.told
        if study.finished:
            return told
        for asked in step.to_score:
            study.record(asked.number, wanted(asked.arch))


@pytest.fixture(scope="module", params=SAMPLERS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SearchStudy:
    """An unbroken search by each sampler, within a budget that most proposals are over."""
    search = asked_for(request.param, budget=Budget(max_macs=4_000_000))
    return run(tmp_path_factory.mktemp(request.param), search)


def test_the_first_three_are_named_and_scored_even_over_the_budget(whole: SearchStudy) -> None:
    """Base, smallest and largest, in this order; those over the budget are kept off the front."""
    archs = [SPACE.base, SPACE.extreme(-1), SPACE.extreme(+1)]
    rows = whole.scored
    assert [row.name for row in rows[:4]] == [
        "base, twins_svt_micro",
        "smallest",
        "largest",
        "",
    ]
    assert [row.arch for row in rows[:3]] == archs
    assert [row.feasible for row in rows[:3]] == [False, True, False]
    members = front(rows, ("top1", "macs"))
    assert members and all(row.feasible for row in members)


def test_nothing_else_over_the_budget_is_scored(whole: SearchStudy) -> None:
    """Every row knows its cost, and all rows but the named ones are within."""
    assert len(whole.scored) == whole.search.spec.trials
    for row in whole.scored:
        assert (row.macs, row.params) == (COST(row.arch).macs, COST(row.arch).params)
        assert row.macs <= 4_000_000 or row.name
        assert row.key == SPACE.key(row.arch)


def test_a_row_survives_json(whole: SearchStudy) -> None:
    """A row that went through JSON is the same row."""
    for row in whole.scored:
        assert Scored.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_optuna_reads_the_journal(whole: SearchStudy, tmp_path: Path) -> None:
    """Optuna's own storage finds the same trials: parameters, values, attributes, states."""
    copy = tmp_path / "copy.journal"
    copy.write_bytes(whole._journal.path.read_bytes())
    storage = JournalStorage(JournalFileBackend(str(copy)))
    study = optuna.load_study(storage=storage, study_name="search")
    assert [way.name for way in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert len(study.trials) == len(whole.scored)
    for trial, row in zip(study.trials, whole.scored, strict=True):
        assert trial.state is TrialState.COMPLETE and trial.values == [row.top1, float(row.macs)]
        encoding = SPACE.encode(row.arch)
        ordered = {choice.name: choice for choice in SPACE.choices if choice.ordered}
        decoded = {
            name: ordered[name].values[value] if name in ordered else value
            for name, value in trial.params.items()
        }
        assert SPACE.decode(decoded) == SPACE.decode(encoding) == row.arch
        about = trial.user_attrs
        assert (about["arch"], about["name"], about["cached"]) == (row.key, row.name, row.cached)
        assert trial.constraints == {"budget": pytest.approx(row.macs / 4_000_000 - 1)}


def test_a_journal_cut_anywhere_is_gone_on_with_to_the_same_end(
    whole: SearchStudy, tmp_path: Path
) -> None:
    """Whatever part of the file a kill left, the rows are those of an unbroken run."""
    data = whole._journal.path.read_bytes()
    rng = random.Random(0)
    ends = [data.rfind(b"\n", 0, rng.randrange(len(data))) + 1 for _ in range(4)]
    ends += [rng.randrange(len(data)) for _ in range(4)] + [0, len(data) - 1]
    for place, end in enumerate(ends):
        folder = tmp_path / str(place)
        folder.mkdir()
        journal_path(folder, 0).write_bytes(data[:end])
        again = run(folder, whole.search)
        assert [replace(row, seconds=0) for row in again.scored] == [
            replace(row, seconds=0) for row in whole.scored
        ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_order_of_completion_changes_nothing(sampler: str, tmp_path: Path) -> None:
    """Scores that come in any order, from many evaluators, give the same search."""
    search = asked_for(sampler)
    one = run(tmp_path / "one", search)
    rng, score = random.Random(1), Toy(SPACE)()
    study = SearchStudy(tmp_path / "many", search, 0)
    waiting = []
    while True:
        waiting += study.advance().to_score
        if study.finished:
            break
        asked = waiting.pop(rng.randrange(len(waiting)))
        study.record(asked.number, score(asked.arch))
    study.close()
    assert study.scored == one.scored
    assert run(tmp_path / "other", search, seed=1).scored[3:] != [
        replace(row, seed=1) for row in one.scored[3:]
    ]


def test_nsga2_takes_generations_as_optuna_does(tmp_path: Path) -> None:
    """Each trial's generation is what Optuna's own sampler says, and the named are in the first."""
    study = run(tmp_path, asked_for("nsga2"))
    storage = JournalStorage(JournalFileBackend(str(study._journal.path)))
    trials = optuna.load_study(storage=storage, study_name="search").trials
    generations = [trial.system_attrs["Nsga2:generation"] for trial in trials]
    assert generations[:3] == [0, 0, 0] and max(generations) > 3
    sampler = optuna.samplers.NSGAIISampler(population_size=10)
    window = study.search.spec.window
    for number in range(len(trials)):
        told = max(0, number - window + 1)
        other = optuna.create_study(directions=["maximize", "minimize"])
        for trial in trials[:told]:
            generation = {"NSGAIISampler:generation": generations[trial.number]}
            other.add_trial(optuna.trial.create_trial(values=trial.values, system_attrs=generation))
        asked = other._storage.get_trial(other.ask()._trial_id)
        assert sampler.get_trial_generation(other, asked) == generations[number]


def test_no_network_is_scored_twice_in_a_run(tmp_path: Path) -> None:
    """A repeated key takes its score from the first one, in the same seed or another."""
    search = asked_for("nsga2", 150)
    scored: list[str] = []

    def score(arch: ArchConfig) -> Score:
        scored.append(SPACE.key(arch))
        return Score(float(len(SPACE.key(arch)) % 50), 1.0, 1.0, 10, 0.1)

    rows: list[Scored] = []
    for number in (0, 1):
        study = SearchStudy(tmp_path, search, number)
        tell(study, score)
        study.close()
        rows += study.scored
    assert len(rows) == 300
    assert len(scored) == len(set(scored)) == sum(not row.cached for row in rows)
    assert [row.cached for row in rows[150:153]] == [True] * 3
    for row in rows:
        assert row.top1 == len(row.key) % 50


def test_a_network_under_way_is_waited_for(tmp_path: Path) -> None:
    """In a space of one network the first trial is scored, all others take its score or failure."""
    space = SearchSpace.point(SPACE.base, SPACE.input_size)
    search = Search(space, StudySpec(9), COST)
    study = SearchStudy(tmp_path / "good", search, 0)
    step = study.advance()
    assert [asked.number for asked in step.to_score] == [0] and not step.told
    study.record(0, Score(50, 1, 1, 10, 0.1))
    assert [row.cached for row in study.advance().told] == [False] + [True] * 8
    bad = SearchStudy(tmp_path / "bad", search, 0)
    assert len(tell(bad, lambda arch: "it is bad")) == 9
    assert [failed.reason for failed in bad.failed] == ["it is bad"] * 9


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Score(50, float("nan"), 1, 10, 0.1), "its loss is nan"),
        (Score(float("inf"), 1, 1, 10, 0.1), "its top1 is inf"),
        ("RuntimeError: boom", "RuntimeError: boom"),
    ],
)
def test_a_failure_is_recorded_and_the_search_goes_on(
    outcome: Score | str, reason: str, tmp_path: Path
) -> None:
    """Every seventh network fails; the journal says why, and it is not tried again."""
    search, good = asked_for("nsga2", 60), Toy(SPACE)()

    def score(arch: ArchConfig) -> Score | str:
        return outcome if COST(arch).macs // 128 % 7 == 0 else good(arch)

    study = SearchStudy(tmp_path, search, 0)
    told = tell(study, score)
    study.close()
    assert len(told) == 60 and 0 < len(study.failed) < 30
    assert {failed.reason for failed in study.failed} == {reason}
    look = SearchStudy.look(tmp_path, search, 0)
    assert look is not None and look.finished
    assert (look.scored, look.failed) == (study.scored, study.failed)
    storage = JournalStorage(JournalFileBackend(str(journal_path(tmp_path, 0))))
    trials = optuna.load_study(storage=storage, study_name="search").trials
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    assert [trial.number for trial in failed] == [one.number for one in study.failed]
    assert {trial.user_attrs["reason"] for trial in failed} == {reason}


def test_a_recorded_score_outlives_the_process_before_it_is_told(tmp_path: Path) -> None:
    """Killed right after `record`, a study tells that score; it asks again only for the others."""
    search = asked_for("nsga2", 20)
    study = SearchStudy(tmp_path, search, 0)
    first = study.advance().to_score
    study.record(1, Score(77, 1, 1, 10, 0.1))
    study.close()
    again = SearchStudy(tmp_path, search, 0)
    step = again.advance()
    assert step.to_score == [asked for asked in first if asked.number != 1] and not step.told
    again.record(0, Score(66, 1, 1, 10, 0.1))
    told = again.advance().told
    assert [row.top1 for row in told if isinstance(row, Scored)] == [66, 77]
    again.close()


def test_scores_of_before_there_were_priors_are_kept(tmp_path: Path) -> None:
    """A journal whose scores have no `adjusted` is read as it was: nothing moved the loss."""
    search = asked_for("nsga2", 12)
    whole = run(tmp_path, search)
    path = journal_path(tmp_path, 0)
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"user_attr":{"adjusted"' not in line.replace(" ", "")]
    assert len(kept) < len(lines)
    path.write_text("".join(kept))
    again = SearchStudy.look(tmp_path, search, 0)
    assert again is not None and again.scored == whole.scored


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    """A finished search goes on when its number of trials is raised."""
    short = run(tmp_path, asked_for("nsga2", 20))
    assert short.finished
    long = run(tmp_path, asked_for("nsga2", 30))
    assert long.scored[:20] == short.scored and len(long.scored) == 30


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("objectives", {"objectives": ("loss", "macs")}),
        ("sampler", {"sampler": "random"}),
        ("population", {"population": 12}),
        ("max_macs", {"budget": Budget(max_macs=10**7)}),
    ],
)
def test_a_journal_of_another_search_is_refused(
    word: str, change: dict[str, object], tmp_path: Path
) -> None:
    """What makes scores or proposals another thing is named."""
    search = asked_for("nsga2", 5)
    run(tmp_path, search)
    other = search._replace(spec=replace(search.spec, **change))
    with pytest.raises(UserError, match=rf"seed0\.journal belongs to another search: its {word}"):
        SearchStudy(tmp_path, other, 0)


def test_a_journal_of_another_space_or_of_other_scores_is_refused(tmp_path: Path) -> None:
    """As its own, that is; beside a journal it is left alone, and lends nothing."""
    search = asked_for("nsga2", 5)
    run(tmp_path, search)
    untied = toy_space(untied=True)
    others = {
        "space": search._replace(space=untied, cost_of=toy_cost(untied)),
        "context": search._replace(context="other weights"),
    }
    for word, other in others.items():
        with pytest.raises(UserError, match=f"its {word} is"):
            SearchStudy(tmp_path, other, 0)
        neighbour = run(tmp_path, other, seed=1)
        assert not neighbour.scored[0].cached
        journal_path(tmp_path, 1).unlink()
    journal_path(tmp_path, 0).rename(journal_path(tmp_path, 3))
    with pytest.raises(UserError, match="its seed is 0, not 3"):
        SearchStudy(tmp_path, search, 3)


def test_damage_in_the_middle_is_named_and_damage_at_the_end_is_cut(tmp_path: Path) -> None:
    """A broken line before whole ones is a fault of the disk; a broken end is a killed writer."""
    search = asked_for("nsga2", 10)
    run(tmp_path, search)
    path = journal_path(tmp_path, 0)
    good = path.read_bytes()
    path.write_bytes(good + b"\x00\x00\x00\n" + b'{"op_code": 6, "tri')
    study = SearchStudy(tmp_path, search, 0)
    study.close()
    assert study.finished and path.read_bytes() == good
    lines = good.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"{oops}\n", *lines[5:]]))
    with pytest.raises(UserError, match=r"seed0\.journal:5: this line .* is damaged"):
        SearchStudy(tmp_path, search, 0)
    path.write_bytes(b'{"op_code": 6, "trial_id": 0, "state": 1, "values": null}\n')
    with pytest.raises(UserError, match="not the journal of a search"):
        SearchStudy(tmp_path, search, 0)


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    """The lock ends with its owner; looking needs none."""
    search = asked_for("nsga2", 10)
    study = SearchStudy(tmp_path, search, 0)
    with pytest.raises(UserError, match="another process is searching here"):
        Journal(journal_path(tmp_path, 0), wait=0)
    look = SearchStudy.look(tmp_path, search, 0)
    assert look is not None and not look.scored and not look.finished
    study.close()
    Journal(journal_path(tmp_path, 0), wait=0).close()


def test_a_full_disk_is_a_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that did not fit is taken back; what was finished is there when space is."""
    search = asked_for("nsga2", 40)
    complete = run(tmp_path / "complete", search)
    study = SearchStudy(tmp_path / "full", search, 0)
    write, room = os.write, [60_000]

    def full(file: int, data: bytes) -> int:
        if len(data) > room[0]:
            written = write(file, bytes(data)[: room[0] // 2])
            room[0] = 0
            if written:
                return written
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(data)
        return write(file, data)

    told: list[Scored] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(UserError, match=r"seed0\.journal: the disk is full"):
            run_search(study, LocalPool(Toy(SPACE)), told.append)
    study.close()
    look = SearchStudy.look(tmp_path / "full", search, 0)
    assert look is not None and 0 < len(told) < 40 and look.scored == told
    assert run(tmp_path / "full", search).scored == complete.scored


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    """A file lies where the folder should."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"seed0\.journal: "):
        SearchStudy(tmp_path / "file", asked_for(), 0)
    assert SearchStudy.look(tmp_path / "nowhere", asked_for(), 0) is None
