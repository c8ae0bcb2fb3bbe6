"""Where MLflow writes, whether it can, and the words that it takes; without importing it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote

from twins_nas.errors import UserError

SQLITE, DATABASE, ARTIFACTS = "sqlite:///", "mlflow.db", "mlartifacts"
PROBE_SECONDS, LOCK_SECONDS = 3.0, 60.0
LONGEST_VALUE, LONGEST_KEY = 6000, 250
OTHERWISE = f"or set MLFLOW_TRACKING_URI to another store, such as {SQLITE}/path/to/{DATABASE}."


@dataclass(frozen=True)
class Store:
    """An MLflow store by its address; `database` is the file of an SQLite store."""

    uri: str
    database: Path | None = None

    @classmethod
    def of(cls, uri: str | None = None, folder: Path | None = None) -> Store:
        """The store of `uri`, else of MLFLOW_TRACKING_URI, else `mlflow.db` in `folder`.

        Paths become absolute, as a run may change its folder.
        """
        here = (folder or Path()).absolute()
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + DATABASE
        if not uri.startswith(SQLITE):
            return cls(uri)
        database = here / unquote(uri.removeprefix(SQLITE))
        return cls(SQLITE + _quoted(database), database)

    @property
    def artifacts(self) -> str | None:
        """Where the files of a new experiment go; None leaves it to the server."""
        return (self.database.parent / ARTIFACTS).as_uri() if self.database else None

    @property
    def look(self) -> str:
        """The command, or the address, that shows the store."""
        if not self.database:
            return str(self)
        near = self.database.is_relative_to(Path.cwd())
        path = self.database.relative_to(Path.cwd()) if near else self.database
        return f"mlflow ui --backend-store-uri {shlex.quote(SQLITE + _quoted(path))}"

    def __str__(self) -> str:
        """The address without the user and the password that it may hold."""
        return without_password(self.uri)

    def probe(self) -> None:
        """Returns soon where the store answers; MLflow itself waits 20 seconds and longer.

        Raises:
            UserError: the store cannot be written now.
        """
        if self.database:
            _probe_sqlite(self.database)
        elif re.match("https?://", self.uri):
            self._probe_http()
        elif self.uri.startswith("file:") or not re.match("[^/]+://|databricks|uc$", self.uri):
            self._refuse_folder()

    def _refuse_folder(self) -> NoReturn:
        raise UserError(
            f"MLflow no longer writes plain folders ({self}); unset MLFLOW_TRACKING_URI to use"
            f" {DATABASE} in the current folder, {OTHERWISE}"
        )

    def _probe_http(self) -> None:
        address = re.sub("//[^@/]*@", "//", self.uri).rstrip("/") + "/health"
        try:
            urllib.request.urlopen(address, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError as answer:
            answer.close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not isinstance(reason, ssl.SSLError):
                raise UserError(
                    f"no MLflow server answers at {self} ({reason}); start it, or unset"
                    f" MLFLOW_TRACKING_URI to use {DATABASE} in the current folder."
                ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the database's folder: two programs that create the schema at once break it."""
        with contextlib.ExitStack() as stack:
            if self.database and os.name == "posix":
                handle = os.open(self.database.parent, os.O_RDONLY)
                stack.callback(os.close, handle)
                end = time.monotonic() + LOCK_SECONDS
                while not _take(handle) and time.monotonic() < end:
                    time.sleep(0.05)
            yield


def without_password(text: str) -> str:
    """The text, with `user:password@` left out of its addresses."""
    return re.sub(r"//[^@/\s]*@", "//", text)


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, without its last dot, or the name of its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_password(lines[0])[:300].rstrip(".")


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one of dotted keys; sequences become texts like `2, 4`."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[prefix + name] = ", ".join(map(str, value))
        else:
            flat[prefix + name] = value
    return flat


def cut(value: object) -> str:
    """The text of a value; one that is over MLflow's 6,000 characters is cut and says so."""
    text = str(value)
    if len(text) <= LONGEST_VALUE:
        return text
    note = f" ... (cut from {len(text)} characters)"
    return text[: LONGEST_VALUE - len(note)] + note


def clean_key(key: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. :/`, at most 250 characters."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:LONGEST_KEY]


def _quoted(path: Path) -> str:
    return quote(str(path), safe="/ ~")


def _take(handle: int) -> bool:
    """Whether the lock was free, or is of a file system that has none."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _probe_sqlite(path: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=PROBE_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        if "locked" in str(error):
            hint = f"is locked by another program; end that one, {OTHERWISE}"
        else:
            hint = f"cannot be written ({error}); mend that, {OTHERWISE}"
        raise UserError(f"MLflow's database {path} {hint}") from error
