"""Scores of members by image, with inherited weights; each is on the disk before the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twins_nas.arch import ArchConfig
from twins_nas.effects.estimates import Hits
from twins_nas.errors import UserError
from twins_nas.evaluate import right_ones
from twins_nas.tuning.journal import Journal
from twins_nas.tuning.objective import Payload, opened
from twins_nas.tuning.runner import DEATHS, Evaluator, EvaluatorPool


class Right(NamedTuple):
    """Which of n images a network classifies rightly, as the hexadecimal digits of their bits."""

    hits: str
    n: int


def build_scorer(payload: Payload) -> Evaluator:
    """As `build_evaluator`, for scores by image: the pools pass on what evaluators give."""
    model, images = opened(payload)

    def score(arch: ArchConfig) -> Any:
        about = (payload.mean, payload.std, arch, payload.batch_size)
        return packed(right_ones(model, images, *about).numpy())

    return score


def scorer(payload: Payload) -> partial[Evaluator]:
    """`build_scorer` of a payload, as pools take it."""
    return partial(build_scorer, payload)


def packed(hits_J: Hits) -> Right:
    """Booleans as text."""
    return Right(np.packbits(hits_J).tobytes().hex(), len(hits_J))


def unpacked(right: Right) -> Hits:
    """The booleans that `packed` took."""
    bits = np.frombuffer(bytes.fromhex(right.hits), dtype=np.uint8)
    return np.unpackbits(bits, count=right.n).astype(np.bool_)


@dataclass
class Scores:
    """The scores of one supernet by key; `context` says of which weights and images they are."""

    context: str
    known: dict[str, Hits]
    _journal: Journal

    @classmethod
    @contextmanager
    def opened(cls, path: Path, context: str) -> Iterator[Scores]:
        """The scores of a journal; those of other weights or images stay in it, unread.

        Raises:
            UserError: it is damaged, has another writer, or cannot be written.
        """
        with closing(Journal(path)) as journal:
            try:
                known = {
                    line["key"]: unpacked(Right(line["hits"], line["n"]))
                    for line in journal.logs
                    if line["context"] == context
                }
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(
                    f"{path} holds no scores of this kind ({error!r}); remove it to start anew."
                ) from error
            yield cls(context, known, journal)

    def add(self, key: str, right: Right) -> None:
        """Keeps a score, for good."""
        line = {"context": self.context, "key": key, "hits": right.hits, "n": right.n}
        self._journal.append([line], durable=True)
        self.known[key] = unpacked(right)


def score_all(
    scores: Scores,
    archs: Mapping[str, ArchConfig],
    pool: EvaluatorPool,
    on_scored: Callable[[float], None] = lambda top1: None,
) -> None:
    """Scores what has no score yet; `on_scored` is told the top-1 in percent.

    Raises:
        UserError: a network cannot be scored, or no score can be kept.
    """
    left = [(key, arch) for key, arch in archs.items() if key not in scores.known]
    for ticket, (_, arch) in enumerate(left):
        pool.submit(ticket, arch)
    deaths: Counter[int] = Counter()
    waiting = len(left)
    while waiting:
        done = pool.next_done()
        key, arch = left[done.ticket]
        if done.died and deaths[done.ticket] < DEATHS:
            deaths[done.ticket] += 1
            pool.submit(done.ticket, arch)
            continue
        outcome: Any = done.outcome
        if isinstance(outcome, str):
            raise UserError(f"{arch} could not be scored: {outcome}")
        scores.add(key, outcome)
        on_scored(100 * float(scores.known[key].mean()))
        waiting -= 1
