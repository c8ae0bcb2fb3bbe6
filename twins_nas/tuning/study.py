"""One search on its journal: what to score next, and what was scored.

A trial's life: it is proposed (a line in the journal, with its parameters and costs), scored (its
figures join it, on the disk for good), and told (complete, failed, or stopped early: pruned).
Trials are told in the order of their numbers, and each is proposed when exactly those a `window`
back are told, by a sampler that is seeded anew from (seed, number). Therefore

- the same seed gives the same search with any number of evaluators, whatever the timing;
- a search that was killed goes on as if it had not been: a trial that was under way is scored again
  under its number, or told at once if its score is in the journal already.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.layer_cost import Cost
from twins_nas.recipes import QUALITIES
from twins_nas.space import Encoding, SearchSpace
from twins_nas.tuning import records
from twins_nas.tuning.journal import Journal, Log
from twins_nas.tuning.records import State, StudyRecord, TrialRecord
from twins_nas.tuning.results import Failed, Score, Scored, Stopped
from twins_nas.tuning.spec import Budget, CostOf, StudySpec, check_budget, named_members

if TYPE_CHECKING:
    from twins_nas.tuning.optuna_sampler import Proposals


class Asked(NamedTuple):
    """A proposed trial that is not told yet."""

    number: int
    name: str
    arch: ArchConfig
    key: str
    macs: int
    params: int


class Step(NamedTuple):
    """What `advance` did: trials to be scored now, and those that were told, in their order."""

    to_score: list[Asked]
    told: list[Scored | Failed]


class Search(NamedTuple):
    """Which search it is; all seeds of a run share it.

    `context` says what the scores are of (weights, images): scores of another one are never used.
    """

    space: SearchSpace
    spec: StudySpec
    cost_of: CostOf
    context: str = ""


class SearchStudy:
    """The search of one seed; every score that `record` was given outlives the process.

    Journals beside this one that agree with it on space and context lend their scores, so that no
    network of a run is scored twice.

    Raises:
        UserError: a journal of another search, a damaged one, one that another process writes or
            that cannot be written; a budget under the smallest member.
    """

    def __init__(self, folder: Path, search: Search, seed: int, write: bool = True) -> None:
        self.search, self.seed = search, seed
        self.scored: list[Scored] = []
        self.failed: list[Failed] = []
        self._open: dict[int, Asked] = {}
        self._outcomes: dict[int, Score | str] = {}
        self._known: dict[str, Score | str] = {}
        self._fresh: list[Asked] = []
        self._proposals: Proposals | None = None
        space = search.space
        self._named = [(name, space.encode(arch)) for name, arch in named_members(space)]
        self._anchor = space.encode(check_budget(space, search.cost_of, search.spec.budget))
        path = journal_path(folder, seed).absolute()
        self._journal = Journal(path, write)
        try:
            if write:
                self._borrow(sorted(set(path.parent.glob("seed*.journal")) - {path}))
            self._record = _replayed(self._journal)
            self._check_header(write)
            self._count = len(self._record.trials)
            for number, trial in enumerate(self._record.trials):
                self._restore(number, trial)
        except BaseException:
            self.close()
            raise

    @classmethod
    def look(cls, folder: Path, search: Search, seed: int) -> Self | None:
        """The study as it stands, whoever writes it, closed; None: there is no journal yet."""
        path = journal_path(folder, seed)
        if not path.exists() or not path.stat().st_size:
            return None
        study = cls(folder, search, seed, write=False)
        study.close()
        return study

    def close(self) -> None:
        """Gives the journal back; nothing can be scored afterwards."""
        self._journal.close()

    @property
    def finished(self) -> bool:
        """Whether all trials are told."""
        return not self._open and self._count >= self.search.spec.trials

    def asked(self, number: int) -> Asked:
        """A trial that is not told yet."""
        return self._open[number]

    def advance(self) -> Step:
        """Tells and proposes all that can be without a further score.

        Proposing goes first, so that each trial is proposed at a fixed point of the history.
        """
        lines: list[Log] = []
        told: list[Scored | Failed] = []
        spec = self.search.spec
        while True:
            head = next(iter(self._open.values()), None)
            if len(self._open) < spec.window and self._count < spec.trials:
                lines += self._propose()
            elif head is not None and (outcome := self._outcome(head)) is not None:
                lines += self._tell(head, outcome, told)
            else:
                break
        self._journal.append(lines)
        to_score, self._fresh = self._fresh, []
        return Step(to_score, told)

    def record(self, number: int, outcome: Score | str) -> None:
        """Takes the score of an asked trial, or why there is none; a score is on the disk then.

        A figure that is not finite is a reason too.
        """
        if isinstance(outcome, Score):
            wrong = [word for word in QUALITIES if not math.isfinite(getattr(outcome, word))]
            if not wrong:
                self._journal.append(records.describe(number, outcome._asdict()), durable=True)
            else:
                outcome = f"its {wrong[0]} is {getattr(outcome, wrong[0])}"
        self._outcomes[number] = outcome

    def _check_header(self, write: bool) -> None:
        search = self.search
        header = _header(search, self.seed)
        there = self._record.header
        if there is None and write:
            self._journal.append(records.begin(search.spec.objectives, header), durable=True)
        elif there is not None:
            apart = [word for word in header if there.get(word) != header[word]]
            if apart:
                raise UserError(
                    f"{self._journal.path} belongs to another search: its {apart[0]} is"
                    f" {there.get(apart[0])!r}, not {header[apart[0]]!r}."
                    " Start a new run, or remove the file."
                )

    def _borrow(self, paths: list[Path]) -> None:
        for path in paths:
            journal = Journal(path, write=False)
            journal.close()
            record, header = _replayed(journal), _header(self.search, self.seed)
            there = record.header or {}
            if all(there.get(word) == header[word] for word in ("space", "context")):
                for trial in record.trials:
                    if score := _score(trial):
                        self._known[trial.user_attrs["arch"]] = score

    def _restore(self, number: int, trial: TrialRecord) -> None:
        asked, score = self._recorded(number, trial), _score(trial)
        if trial.state == "complete" and score:
            self._known[asked.key] = score
            self.scored.append(self._row(asked, score, trial.user_attrs["cached"]))
        elif trial.state in ("fail", "pruned"):
            reason = trial.user_attrs["reason"]
            reason = Stopped(reason) if trial.state == "pruned" else reason
            self.failed.append(self._failure(asked, reason))
            self._known.setdefault(asked.key, reason)
        else:
            if score:
                self._outcomes[number] = score
            self._put(asked)

    def _propose(self) -> list[Log]:
        search, number = self.search, self._count
        name, encoding = self._named[number] if number < len(self._named) else ("", None)
        proposals = self._proposals or self._begin()
        proposal = proposals.propose(number, encoding)
        arch = search.space.decode(proposal.encoding)
        cost, key = search.cost_of(arch), search.space.key(arch)
        about = {"arch": key, "name": name, "macs": cost.macs, "params": cost.params}
        params = {
            choice.name: choice.values.index(proposal.encoding[choice.name])
            for choice in search.space.choices
        }
        self._count += 1
        self._put(Asked(number, name, arch, key, cost.macs, cost.params))
        trial = TrialRecord(params, about, proposal.system_attrs)
        lines = records.propose(trial, proposals.distributions)
        return [*records.remember(proposal.study_attrs), *lines]

    def _begin(self) -> Proposals:
        # Here and not above: Optuna takes a second to import, which a look at a journal can spare.
        from twins_nas.tuning.optuna_sampler import Proposals

        search = self.search
        excess = None if search.spec.budget == Budget() else self._excess_of
        about = (search.space, search.spec, self.seed, self._record)
        self._proposals = Proposals(*about, excess, self._anchor)
        self._record = StudyRecord()
        return self._proposals

    def _excess_of(self, encoding: Encoding) -> float:
        search = self.search
        return search.spec.budget.excess(search.cost_of(search.space.decode(encoding)))

    def _put(self, asked: Asked) -> None:
        """Holds a trial open, and has it scored unless its network is known or under way."""
        under_way = {other.key for other in self._open.values()}
        self._open[asked.number] = asked
        if self._outcome(asked) is None and asked.key not in under_way:
            self._fresh.append(asked)

    def _outcome(self, asked: Asked) -> Score | str | None:
        return self._outcomes.get(asked.number) or self._known.get(asked.key)

    def _tell(self, asked: Asked, outcome: Score | str, told: list[Scored | Failed]) -> list[Log]:
        del self._open[asked.number]
        cached = self._outcomes.pop(asked.number, None) is None
        state: State = "complete"
        values = None
        if isinstance(outcome, str):
            state = "pruned" if isinstance(outcome, Stopped) else "fail"
            self._known.setdefault(asked.key, outcome)
            self.failed.append(self._failure(asked, outcome))
            told.append(self.failed[-1])
            attributes: dict[str, Any] = {"reason": outcome}
        else:
            self._known[asked.key] = outcome
            row = self._row(asked, outcome, cached)
            self.scored.append(row)
            told.append(row)
            values = [float(getattr(row, word)) for word in self.search.spec.objectives]
            attributes = {**(outcome._asdict() if cached else {}), "cached": cached}
        (self._proposals or self._begin()).tell(asked.number, state, values)
        number = asked.number
        return [*records.describe(number, attributes), *records.end(number, state, values)]

    def _recorded(self, number: int, trial: TrialRecord) -> Asked:
        space, about = self.search.space, trial.user_attrs
        encoding = {item.name: item.values[trial.params[item.name]] for item in space.choices}
        arch = space.decode(encoding)
        return Asked(number, about["name"], arch, about["arch"], about["macs"], about["params"])

    def _row(self, asked: Asked, score: Score, cached: bool) -> Scored:
        number, name, arch, key, macs, params = asked
        feasible = self.search.spec.budget.excess(Cost(params, macs)) <= 0
        about = (number, self.seed, name, arch, key, macs, params)
        return Scored(*about, *score, cached=cached, feasible=feasible)

    def _failure(self, asked: Asked, reason: str) -> Failed:
        number, name, arch, _, macs, params = asked
        stopped = isinstance(reason, Stopped)
        return Failed(number, self.seed, arch, reason, name, macs, params, stopped)


def journal_path(folder: Path, seed: int) -> Path:
    """Where the journal of a search seed lies."""
    return folder / f"seed{seed}.journal"


def _header(search: Search, seed: int) -> dict[str, Any]:
    about = {"space": search.space.fingerprint, "context": search.context, "seed": seed}
    return {**about, **search.spec.identity()}


def _replayed(journal: Journal) -> StudyRecord:
    logs, journal.logs = journal.logs, []
    try:
        return records.replay(logs)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{journal.path} is not the journal of a search ({error!r}); remove it to start anew."
        ) from error


def _score(trial: TrialRecord) -> Score | None:
    figures = trial.user_attrs
    if "loss" in figures:  # Scores of runs before 2026-11-29 had no prior.
        figures = {"adjusted": figures["loss"], **figures}
    if not all(name in figures for name in Score._fields):
        return None
    return Score(*(figures[name] for name in Score._fields))
