"""What a user is told: faults of a file with their place, sentences instead of tracebacks."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class UserError(ValueError):
    """Something that the user can mend; its text is a whole sentence that says how."""


@dataclass(frozen=True)
class Fault:
    """One fault of a YAML file, with its line (from 1; 0: the whole file) and dotted key."""

    file: str
    line: int
    key: str
    problem: str
    allowed: str = ""

    def __str__(self) -> str:
        """`file:line: key: problem (allowed: ...)`."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        allowed = f" (allowed: {self.allowed})" if self.allowed else ""
        return f"{place}:{key} {self.problem}{allowed}"


class ConfigError(UserError):
    """All faults of the files of a command, at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def did_you_mean(word: object, words: Iterable[object]) -> str:
    """`; did you mean 'x'?` for the nearest of the words, or nothing."""
    near = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def exit_with(main: Callable[[], int]) -> None:
    """Runs a command and ends the process.

    0 done, 2 the user's fault, 130 stopped with Ctrl-C (its text is shown).
    """
    try:
        code = main()
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    except KeyboardInterrupt as stop:
        print(f"Stopped. {stop}".rstrip(), file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
