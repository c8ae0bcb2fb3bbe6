"""A file of JSON lines with one writer, which survives a kill, a power cut and a full disk.

Why not Optuna's own `JournalFileBackend` (Optuna 5.0.0):

- each parameter is a line with a lock file and an fsync of its own: 60 of them a trial with 58
  choices. Here a proposal is one line, and only a score waits for the disk.
- a partial last line, left by a writer killed in the midst of it, stays there; the next line is
  glued to it, so the next trial that is asked for ends with an AttributeError. Here it is cut off.
- the lock is a file: one left by a killed writer stops the next one for 30 seconds. Here the lock
  is the kernel's, which ends with the process; and there is one writer, not many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twins_nas.errors import UserError
from twins_nas.files import WAIT_SECONDS, lock, told

Log = dict[str, Any]


class Journal:
    """An open journal; `logs` are the lines that were in it.

    With `write=False` nothing is changed or locked. Otherwise the lock of a process that is just
    dying, such as the one that a resumed run follows, is waited for.

    Raises:
        UserError: the file cannot be opened, is damaged, or has another writer.
    """

    def __init__(self, path: Path, write: bool = True, wait: float = WAIT_SECONDS) -> None:
        self.path = path
        with told(path):
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY
            self._file = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            if write:
                busy = f"{path}: another process is searching here; wait for it or stop it."
                lock(self._file, busy, wait)
            self.logs, self._end = self._load()
            if write and self._end < os.fstat(self._file).st_size:
                os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Gives the file and its lock back."""
        os.close(self._file)

    def append(self, logs: Iterable[Log], durable: bool = False) -> None:
        """Writes lines in one go, all of them or none; they are on the disk then, if `durable`.

        Raises:
            UserError: they cannot be written; those before are whole.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with told(self.path):
            try:
                left = memoryview(text)
                while left:
                    left = left[os.write(self._file, left) :]
                if durable:
                    os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(text)

    def _load(self) -> tuple[list[Log], int]:
        """The lines, and how many bytes they take; a broken end does not count."""
        with told(self.path), open(self.path, "rb") as file:
            lines = file.readlines()
        logs, end, broken = [], 0, 0
        for number, line in enumerate(lines, start=1):
            log = _parsed(line)
            if log is None:
                broken = broken or number
            elif broken:
                raise UserError(
                    f"{self.path}:{broken}: this line of the journal is damaged, and whole ones"
                    " follow; put a backup in place of the file, or remove it to start anew."
                )
            else:
                logs.append(log)
                end += len(line)
        return logs, end


def _parsed(line: bytes) -> Log | None:
    try:
        log = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return log if isinstance(log, dict) else None
