"""Lines of a study's journal, in Optuna's format: its tools open the file as a `JournalStorage`.

Only what a search needs is written: one study, and of each trial one line that proposes it (whole,
with all parameters), one for each of its figures, and one that ends it. A parameter is the index of
its value in the choice. A test reads a journal with Optuna and finds the same.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from twins_nas.tuning.journal import Log
from twins_nas.tuning.spec import OBJECTIVES

STUDY, HEADER = "search", "search"
DIRECTIONS = {"minimize": 1, "maximize": 2}
CREATE_STUDY, STUDY_USER, STUDY_SYSTEM, CREATE_TRIAL, END_TRIAL, TRIAL_USER = 0, 2, 3, 4, 6, 8
STATES: dict[State, int] = {"running": 0, "complete": 1, "pruned": 2, "fail": 3}

Attributes = dict[str, Any]
State = Literal["running", "complete", "pruned", "fail"]


@dataclass
class TrialRecord:
    """A trial as its lines tell it; `values` are those of a complete one."""

    params: dict[str, int]
    user_attrs: Attributes
    system_attrs: Attributes
    state: State = "running"
    values: list[float] | None = None


@dataclass
class StudyRecord:
    """A study as its lines tell it."""

    header: Attributes | None = None
    system_attrs: Attributes = field(default_factory=dict)
    trials: list[TrialRecord] = field(default_factory=list)


def begin(objectives: Sequence[str], header: Attributes) -> list[Log]:
    """The lines that open a study; its header says which search it is."""
    directions = [DIRECTIONS[OBJECTIVES[word]] for word in objectives]
    return [
        _line(CREATE_STUDY, study_name=STUDY, directions=directions),
        _line(STUDY_USER, study_id=0, user_attr={HEADER: header}),
    ]


def remember(attributes: Attributes) -> list[Log]:
    """The lines of what a sampler keeps with the study."""
    return [
        _line(STUDY_SYSTEM, study_id=0, system_attr={name: value})
        for name, value in attributes.items()
    ]


def propose(trial: TrialRecord, distributions: Mapping[str, str]) -> list[Log]:
    """The line of a new trial, with each parameter's distribution as Optuna writes it."""
    about = {"user_attrs": trial.user_attrs, "system_attrs": trial.system_attrs}
    params = {"params": trial.params, "distributions": distributions}
    return [_line(CREATE_TRIAL, study_id=0, datetime_start=_now(), **params, **about)]


def describe(number: int, attributes: Mapping[str, Any]) -> list[Log]:
    """The lines that add attributes to a trial."""
    return [
        _line(TRIAL_USER, trial_id=number, user_attr={name: value})
        for name, value in attributes.items()
    ]


def end(number: int, state: State, values: list[float] | None) -> list[Log]:
    """The line that ends a trial; a complete one has values."""
    about = {"state": STATES[state], "values": values, "datetime_complete": _now()}
    return [_line(END_TRIAL, trial_id=number, **about)]


def replay(logs: Iterable[Log]) -> StudyRecord:
    """What the lines tell.

    Raises:
        KeyError, IndexError, TypeError, ValueError: they are not those of a search.
    """
    study = StudyRecord()
    for log in logs:
        code = log["op_code"]
        if code == STUDY_USER:
            study.header = log["user_attr"].get(HEADER, study.header)
        elif code == STUDY_SYSTEM:
            study.system_attrs |= log["system_attr"]
        elif code == CREATE_TRIAL:
            params = {name: int(index) for name, index in log["params"].items()}
            study.trials.append(TrialRecord(params, log["user_attrs"], log["system_attrs"]))
        elif code == TRIAL_USER:
            study.trials[log["trial_id"]].user_attrs |= log["user_attr"]
        elif code == END_TRIAL:
            trial = study.trials[log["trial_id"]]
            trial.state = next(word for word, code in STATES.items() if code == log["state"])
            trial.values = log["values"]
        elif code != CREATE_STUDY:
            raise ValueError(f"operation {code} is not of a search")
    return study


def _line(code: int, **values: Any) -> Log:
    return {"op_code": code, "worker_id": "twins_nas", **values}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
