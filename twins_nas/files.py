"""Files that are whole or absent, and sentences for what the system says of them."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from twins_nas.errors import UserError

WAIT_SECONDS = 30.0


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what the system says of a file (disk full, not permitted) into a sentence.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: the disk is full. Free some space; what was written before is whole."
            ) from error
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}.") from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary path, then puts what it wrote in place of `path`.

    On the disk for good.

    Raises:
        UserError: the file cannot be written; the old one stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with told(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file, see `write_atomically`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file, see `write_atomically`."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def csv_text(columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    """A table of lines as text."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> None:
    """Writes a table of lines, see `write_atomically`."""
    write_text(path, csv_text(columns, lines))


def lock(file: int, busy: str, wait: float = WAIT_SECONDS) -> None:
    """Takes the kernel's lock on an open file, which ends with the process that has it.

    The lock of a process that is just dying, such as the one that a resumed run follows, is waited
    for. A file system without locks is the user's to look after.

    Raises:
        UserError: another process keeps it; `busy` says so.
    """
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise UserError(busy) from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return
            raise


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Holds a folder, made where it lacks, against other processes.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        lock(file, busy)
        yield
    finally:
        os.close(file)
