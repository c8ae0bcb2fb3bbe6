"""One line of progress for each phase of a run: how far, how fast, how long still.

    with phase("supernet training", total=400, unit="step") as line:
        line.advance(1, note="loss 0.53")

At a terminal the line is drawn over and over by rich; elsewhere plain lines come now and then, so
that a log file stays short: each tenth, and every ten seconds, seldomer in phases of many minutes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY_SECONDS, EVERY_SHARE, LEAST_SECONDS = 10.0, 0.1, 1.0
LINES_A_LIFE = 30

Clock = Callable[[], float]


class Line(Protocol):
    """The line of a phase that goes on."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts finished units; a note stays until the next one."""

    def say(self, text: str) -> None:
        """Prints a whole line above the progress."""


class _Meter:
    """Counts, and tells speed and time left from what was done here, not before a resume."""

    def __init__(self, name: str, total: int | None, unit: str, done: int, clock: Clock) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.first = self.done = done
        self.note = ""
        self._clock, self._start = clock, clock()

    def add(self, count: int, note: str) -> None:
        self.done += count
        self.note = note or self.note

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    @property
    def count(self) -> str:
        of = "" if self.total is None else f"/{self.total:,}"
        plural = "" if (self.total or self.done) == 1 else "s"
        return f"{self.done:,}{of} {self.unit}{plural}"

    @property
    def speed(self) -> str:
        seconds, count = self.seconds, self.done - self.first
        if count <= 0 or seconds <= 0:
            return ""
        if count >= seconds:
            return f"{count / seconds:,.{1 if count < 100 * seconds else 0}f} {self.unit}s/s"
        return f"{seconds / count:.1f} s/{self.unit}"

    @property
    def left(self) -> str:
        count = self.done - self.first
        if self.total is None or count <= 0 or self.done >= self.total:
            return ""
        return f"{duration(self.seconds / count * (self.total - self.done))} left"


class _PlainLine:
    """Now and then a line of text."""

    def __init__(self, meter: _Meter, stream: TextIO) -> None:
        self._meter, self._stream = meter, stream
        self._last_seconds, self._last_share = 0.0, meter.share
        self.say(f"{meter.name}: {meter.count}")

    def advance(self, count: int = 1, note: str = "") -> None:
        meter = self._meter
        meter.add(count, note)
        seconds, share = meter.seconds, meter.share
        since = seconds - self._last_seconds
        late = since >= max(EVERY_SECONDS, seconds / LINES_A_LIFE)
        far = since >= LEAST_SECONDS and share - self._last_share >= EVERY_SHARE - 1e-9
        if share < 1 and (late or far):
            self._last_seconds, self._last_share = seconds, share
            self.say(_joined(f"{meter.name}: {meter.count}", meter.speed, meter.left, meter.note))

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _RichLine:
    """A bar that rich redraws."""

    def __init__(self, meter: _Meter, progress: Progress) -> None:
        self._meter, self._progress = meter, progress
        self._task = progress.add_task(meter.name, total=meter.total, completed=meter.done, text="")

    def advance(self, count: int = 1, note: str = "") -> None:
        meter = self._meter
        meter.add(count, note)
        text = _joined(meter.count, meter.speed, meter.left, meter.note)
        self._progress.update(self._task, completed=meter.done, text=text)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def phase(
    name: str,
    total: int | None,
    unit: str,
    done: int = 0,
    stream: TextIO | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Line]:
    """The line of one phase, on stderr unless told otherwise; `done` units came before a resume.

    The last line tells the time it took, or where it was stopped.
    """
    stream = stream or sys.stderr
    meter = _Meter(name, total, unit, done, clock)
    end = "stopped"
    try:
        if is_terminal(stream):
            with _rich_progress(stream) as progress:
                yield _RichLine(meter, progress)
        else:
            yield _PlainLine(meter, stream)
        end = "done"
    finally:
        words = f"{name}: {end}, {meter.count} in {duration(meter.seconds)}"
        print(_joined(words, meter.speed, meter.note), file=stream, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether a line can be drawn over on the stream."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def duration(seconds: float) -> str:
    """`4.2 s`, `38 s`, `12 min 5 s` or `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _rich_progress(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
    )
    return Progress(*columns, console=Console(file=stream), transient=True)
