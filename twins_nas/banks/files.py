"""The files of a bank: `bank.yaml` says what it is, three tables hold what was trained.

`bank.yaml` is written last, with a digest of each table: a bank that was changed by hand, copied in
part, or whose writing was stopped is told from a whole one.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twins_nas.config import validated
from twins_nas.errors import UserError
from twins_nas.files import csv_text, told, write_text
from twins_nas.recipes import DataRecipe, TrainingRecipe
from twins_nas.schema import Model
from twins_nas.yaml_nodes import read, shown, write

FORMAT = 1
HEADER, ARCHS, RUNS, CURVES = "bank.yaml", "archs.csv", "runs.csv", "curves.csv"
SCORES = ("val_top1", "val_loss", "test_top1", "test_loss")
POINT = ("loss", "val_top1", "val_loss")
COLUMNS: dict[str, tuple[str, ...]] = {
    ARCHS: ("number", "name", "part", "stratum", "macs", "params", "key", "arch"),
    RUNS: (
        *("number", "seed", "status", "reason", *SCORES),
        *("epochs", "batch_size", "accumulate", "seconds"),
    ),
    CURVES: ("number", "seed", "epoch", "step", *POINT),
}
"""Accuracies in percent, losses in nats, seconds of training steps; `key` is a hash of the key that
equal networks share; `arch` is YAML in one line; `part` is tuning or held-out."""

Line = Mapping[str, object]
Lines = list[dict[str, str]]


class BankImages(Model):
    """The images that the networks were trained, validated and tested on."""

    channels: int
    classes: int
    train: int
    val: int
    test: int


class BankHeader(Model):
    """What a bank is: its space and recipe in full, and where it came from.

    `strata` are the edges of the bins, in MACs; `files` the digests of the tables.
    """

    format: int
    name: str
    question: str
    seeds: tuple[int, ...]
    strata: tuple[int, ...]
    images: BankImages
    training: TrainingRecipe
    data: DataRecipe
    space: dict[str, Any]
    cost: str
    device: str
    machine: str
    torch: str
    commit: str
    command: str
    date: str
    files: dict[str, str]


def write_bank(folder: Path, header: BankHeader, tables: Mapping[str, Iterable[Line]]) -> None:
    """Writes a bank in place of an earlier one of the folder.

    Raises:
        UserError: a file cannot be written.
    """
    texts = {name: csv_text(COLUMNS[name], lines) for name, lines in tables.items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    digests = {name: _digest(text) for name, text in texts.items()}
    values = header.model_copy(update={"files": digests}).model_dump(mode="json")
    write_text(folder / HEADER, write(values))


def read_header(folder: Path) -> BankHeader:
    """What the bank of a folder is.

    Raises:
        UserError: there is none, it is of another format, or damaged.
    """
    path = folder / HEADER
    document = read(path)
    value = document.value
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path} is of format {shown(found)}, and this twins_nas reads format {FORMAT}: take"
            " the twins_nas that it was written by, or build the bank again."
        )
    return validated(document, BankHeader)


def read_table(folder: Path, name: str, header: BankHeader) -> Lines:
    """The lines of a table.

    Raises:
        UserError: it is missing, or not what was written.
    """
    path = folder / name
    with told(path):
        data = path.read_bytes()
    text = data.decode("utf-8", errors="replace")
    if _digest(text) != header.files.get(name):
        raise UserError(
            f"{path} is not the file that {HEADER} was written with: it was changed, or the bank"
            " was copied in part; get it whole again, or go on with its build by --resume."
        )
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
