"""Progress lines, read from a plain stream and from a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from twins_nas.progress import duration, phase


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def lines(total: int | None, seconds: float, units: int, done: int = 0) -> list[str]:
    """The plain lines of a phase of so many units, each of which takes so long."""
    stream, clock = io.StringIO(), Clock()
    with phase("training", total, "step", done, stream, clock) as line:
        for unit in range(units):
            clock.now += seconds
            line.advance(1, note=f"loss {unit}")
    return stream.getvalue().splitlines()


def test_plain_lines_tell_speed_and_time_left() -> None:
    """Start, each tenth, end."""
    found = lines(400, 0.1, 400)
    assert found[0] == "training: 0/400 steps"
    assert found[1] == "training: 40/400 steps, 10.0 steps/s, 36 s left, loss 39"
    assert len(found) == 11
    assert found[-1] == "training: done, 400/400 steps in 40 s, 10.0 steps/s, loss 399"


def test_plain_lines_stay_few() -> None:
    """A short phase has two lines; slow units have one each; ten hours have some hundred."""
    assert len(lines(400, 0.001, 400)) == 2
    slow = lines(3, 20.0, 3)
    assert len(slow) == 4
    assert slow[1] == "training: 1/3 steps, 20.0 s/step, 40 s left, loss 0"
    assert 50 < len(lines(None, 1.0, 36_000)) < 250


def test_speed_after_a_resume_is_of_this_process() -> None:
    """What was done before counts for the share, not for the speed."""
    found = lines(1000, 1.0, 100, done=900)
    assert found[0] == "training: 900/1,000 steps"
    assert found[1] == "training: 910/1,000 steps, 1.0 steps/s, 1 min 30 s left, loss 9"
    assert found[-1].startswith("training: done, 1,000/1,000 steps in 1 min 40 s, 1.0 steps/s")


def test_a_stopped_phase_says_where() -> None:
    """An exception passes, the last line tells how far it came; other lines come between."""
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), phase("search", 9, "trial", stream=stream) as line:
        line.advance(2)
        line.say("a worker died; it is started again")
        raise KeyboardInterrupt
    found = stream.getvalue().splitlines()
    assert found[1] == "a worker died; it is started again"
    assert found[-1].startswith("search: stopped, 2/9 trials in 0.0 s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (725, "12 min 5 s"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text


PROGRAM = """
import sys
from twins_nas.progress import phase
with phase("training", 3, "step") as line:
    for _ in range(3):
        line.advance(1, note="[bold]loss[/bold]")
    line.say("hello")
sys.exit(0 if ("rich" in sys.modules) == (sys.argv[1] == "rich") else 3)
"""


@pytest.mark.parametrize(("term", "rich"), [("xterm", True), ("dumb", False)])
def test_a_terminal_gets_a_bar(term: str, rich: bool) -> None:
    """Rich draws at a terminal only, and leaves one last line there; TERM=dumb gets plain lines."""
    driver, terminal = pty.openpty()
    words = [sys.executable, "-c", PROGRAM, "rich" if rich else "plain"]
    environment = {**os.environ, "TERM": term, "COLUMNS": "100"}
    done = subprocess.run(words, stderr=terminal, env=environment, check=False)
    os.close(terminal)
    text = os.read(driver, 100_000).decode()
    os.close(driver)
    assert done.returncode == 0
    assert ("\x1b[" in text) == rich
    assert "hello" in text
    assert text.splitlines()[-1].endswith("[bold]loss[/bold]")
    assert "training: done, 3/3 steps in" in text.splitlines()[-1]
