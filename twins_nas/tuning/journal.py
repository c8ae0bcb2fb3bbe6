"""A study's journal: a file of JSON lines in Optuna's format, with one writer, which survives a kill.

Optuna's own `JournalFileBackend` can read the file. What it does otherwise when writing, and why not
here (Optuna 5.0.0, 58 choices, one shared core pair):

- each parameter is a line, a lock file and an fsync of its own: 60 of them a trial. Here one write.
- a partial last line, from a writer killed in the midst of it, stays; the next line is then glued to
  it, and from there on the file cannot be read. Here it is cut off.
- the lock is a file: one left by a killed writer stops the next one for 30 seconds. Here the lock is
  the kernel's, which ends with the process, and a second writer is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twins_nas.errors import UserError
from twins_nas.files import told

CREATE_TRIAL, SET_PARAM, SET_USER_ATTR, SET_SYSTEM_ATTR = 4, 5, 8, 9
WAIT_SECONDS = 30.0

Log = dict[str, Any]


class Journal:
    """What Optuna's `JournalStorage` asks of its backend, over one file that this process owns.

    With `write=False` it only reads what is there. The lock of a process that is just dying (the
    one that a resumed run follows) is waited for.

    Raises:
        UserError: the file cannot be opened, is damaged, or has another writer.
    """

    def __init__(self, path: Path, write: bool = True, wait: float = WAIT_SECONDS) -> None:
        self.path = path
        self._pending: list[Log] | None = None
        with told(path):
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY
            self._file = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            if write:
                self._lock(wait)
            self._unread, self._end = self._load()
            if write and self._end < os.fstat(self._file).st_size:
                os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Gives the file and its lock back."""
        os.close(self._file)

    def read_logs(self, log_number_from: int) -> list[Log]:
        """What was read from the file or appended since the last call."""
        logs, self._unread = self._unread, []
        return logs

    def append_logs(self, logs: list[Log]) -> None:
        """Writes lines, at once or together with the rest of the `group`."""
        self._unread += logs
        if self._pending is None:
            self._write(logs, durable=True)
        else:
            self._pending += logs

    @contextlib.contextmanager
    def group(self, durable: bool) -> Iterator[None]:
        """What is appended inside goes to the file in one write; to the disk too where `durable`.

        Raises:
            UserError: it cannot be written; the file is as before, the study in memory is not.
        """
        self._pending = []
        try:
            yield
            self._write(_merged(self._pending), durable)
        finally:
            self._pending = None

    def _write(self, logs: list[Log], durable: bool) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with told(self.path):
            try:
                left = memoryview(text)
                while left:
                    left = left[os.write(self._file, left) :]
                if durable and text:
                    os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(text)

    def _lock(self, wait: float) -> None:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UserError(
                        f"{self.path}: another process is searching here; wait for it or stop it."
                    ) from None
                time.sleep(0.1)
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    return
                raise

    def _load(self) -> tuple[list[Log], int]:
        """The lines and the number of bytes that they take; a broken end does not count."""
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
    return log if isinstance(log, dict) and "op_code" in log else None


def _merged(logs: list[Log]) -> list[Log]:
    """The lines of a group, parameters and attributes of a new trial put into the line that creates it.

    That saves two thirds of the bytes, and a proposal is in the file whole or not at all. The line
    that creates a trial does not know its id; the next line of a trial has it.
    """
    kept: list[Log] = []
    created: dict[int, Log] = {}
    unknown: Log | None = None
    for log in logs:
        code = log["op_code"]
        if code == CREATE_TRIAL:
            parts: Log = {"distributions": {}, "params": {}, "user_attrs": {}, "system_attrs": {}}
            unknown = log | parts
            kept.append(unknown)
            continue
        if unknown is not None and "trial_id" in log:
            created[log["trial_id"]], unknown = unknown, None
        trial = created.get(log.get("trial_id", -1))
        if trial is None or code not in (SET_PARAM, SET_USER_ATTR, SET_SYSTEM_ATTR):
            kept.append(log)
        elif code == SET_PARAM:
            trial["distributions"][log["param_name"]] = log["distribution"]
            trial["params"][log["param_name"]] = log["param_value_internal"]
        else:
            trial["user_attrs"] |= log.get("user_attr", {})
            trial["system_attrs"] |= log.get("system_attr", {})
    return kept
