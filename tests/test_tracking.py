"""MLflow for real, on SQLite: what is written is read back, and no failure of it stops a run."""

from __future__ import annotations

import contextlib
import math
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from twins_nas import store
from twins_nas.errors import UserError
from twins_nas.store import Store, clean_key, cut, flatten
from twins_nas.tracking import NOTE, PARENT, Run, Tracker

WRITER = """
import os, sys, signal
from pathlib import Path
from twins_nas.tracking import Tracker

assert "mlflow" not in sys.modules, "the import of tracking is not cheap"
tracker = Tracker("killed", folder=Path(sys.argv[1]))
run = tracker.start("one", {"epochs": 5}, {"host": "a"})
Path(sys.argv[2]).write_text(run.id)
for step in range(30):
    run.log({"loss": 1 / (step + 1)}, step)
run.child("base", {"depth": 2}, {"top1": 90.0})
run.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class Scene:
    """A store in a folder with a difficult name, and two writers that made it at once and died."""

    folder: Path
    ids: list[str]
    noise: str


@dataclass(frozen=True)
class Scored:
    """The part of a scored architecture that curves show."""

    number: int
    seed: int
    macs: int
    params: int
    top1: float
    loss: float
    adjusted: float


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two processes start a run in the same empty folder at the same time, and are killed."""
    folder = tmp_path_factory.mktemp("store") / "a b#1%41"
    folder.mkdir()
    files = [folder / f"{index}.id" for index in range(2)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for file in files
    ]
    noise = "".join(writer.communicate()[0] for writer in writers)
    return Scene(folder, [file.read_text() for file in files if file.exists()], noise)


@pytest.fixture
def warnings() -> list[str]:
    """What a tracker warned of."""
    return []


@pytest.fixture
def tracker(scene: Scene, warnings: list[str]) -> Tracker:
    """A tracker of the module's store."""
    return Tracker("tests", folder=scene.folder, warn=warnings.append)


def read(tracker: Tracker, run: Run | str) -> Any:
    """A run as MLflow has it."""
    return tracker.client.get_run(run if isinstance(run, str) else run.id)


def curve(tracker: Tracker, run: Run, key: str) -> list[tuple[int, float]]:
    """All points of a curve, by step."""
    return sorted((m.step, m.value) for m in tracker.client.get_metric_history(run.id, key))


def children(tracker: Tracker, run: Run) -> list[Any]:
    """The runs below a run, by name."""
    found = tracker.client.search_runs([tracker.experiment_id], f"tags.`{PARENT}` = '{run.id}'")
    return sorted(found, key=lambda child: str(child.info.run_name))


@contextlib.contextmanager
def locked(tracker: Tracker) -> Iterator[None]:
    """Another program holds the database."""
    assert tracker.store.database
    with contextlib.closing(sqlite3.connect(tracker.store.database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_two_writers_make_the_store_at_once_and_in_silence(scene: Scene) -> None:
    """Neither alembic, SQLAlchemy nor MLflow prints; the schema is made once."""
    assert scene.noise == ""
    assert len(set(scene.ids)) == 2
    assert sorted(path.name for path in scene.folder.iterdir()) == ["0.id", "1.id", "mlflow.db"]


def test_a_killed_run_goes_on_without_doubled_steps(scene: Scene, warnings: list[str]) -> None:
    """Steps that were sent before the kill are not sent again; the child is not made again."""
    tracker = Tracker("killed", folder=scene.folder, warn=warnings.append)
    assert read(tracker, scene.ids[0]).info.status == "RUNNING"
    with tracker.start("one", {"epochs": 6, "more": 1}, run_id=scene.ids[0]) as run:
        assert run.id == scene.ids[0]
        for step in range(20, 40):
            run.log({"loss": 1 / (step + 1)}, step)
        run.child("base", {"depth": 2}, {"top1": 90.0})
    assert curve(tracker, run, "loss") == [(step, 1 / (step + 1)) for step in range(40)]
    found = read(tracker, run)
    assert found.info.status == "FINISHED"
    assert (found.data.params["epochs"], found.data.params["more"]) == ("5", "1")
    assert found.data.tags["changed.epochs"] == "6"
    assert len(children(tracker, run)) == 1
    assert warnings == []


def test_a_lost_run_is_written_anew(tracker: Tracker, warnings: list[str]) -> None:
    """An id that the store does not know, or that was deleted, gives a new run and a warning."""
    with tracker.start("one", {}, run_id="0" * 32) as run:
        assert run.id != "0" * 32
    tracker.client.delete_run(run.id)
    with tracker.start("two", {}, run_id=run.id) as other:
        assert other.id != run.id
    assert len(warnings) == 2
    assert "a new one is written" in warnings[0]


def test_a_parent_run(tracker: Tracker, tmp_path: Path, warnings: list[str]) -> None:
    """Params, curves in chunks, scored architectures, artifacts, text and children come back."""
    (tmp_path / "archs").mkdir()
    (tmp_path / "archs" / "base.yaml").write_text("depth: 2\n")
    (tmp_path / "front.csv").write_text("arch,macs\n")
    recipe = {"train": {"epochs": 5, "decay": [0.1, 0.2]}, "space": "micro"}
    with tracker.start("search", recipe, {"kind": "search"}) as run:
        for step in range(2500):
            run.log({"train/loss": 1.0, "lr": 0.1}, step)
        run.log_scored(
            Scored(number, 3, 10 * number, 5, 80.5, 0.5, 0.5 - number) for number in range(4)
        )
        run.describe("**front**")
        run.artifact(tmp_path / "front.csv")
        run.artifact(tmp_path / "archs", "archs")
        for name in ("base", "largest"):
            params = {"stages": {"0": {"depth": 2}}}
            run.child(name, params, {"test_top1": 91.25}, {"front": "test"})
    found = read(tracker, run)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.decay"] == "0.1, 0.2"
    assert {"git_commit", "machine", "train.epochs", "space"} <= set(found.data.params)
    assert found.data.tags["kind"] == "search"
    assert found.data.tags[NOTE] == "**front**"
    assert len(curve(tracker, run, "train/loss")) == len(curve(tracker, run, "lr")) == 2500
    assert curve(tracker, run, "search_seed3/macs") == [(n, 10.0 * n) for n in range(4)]
    assert curve(tracker, run, "search_seed3/adjusted") == [(n, 0.5 - n) for n in range(1, 4)]
    names = [item.path for item in tracker.client.list_artifacts(run.id)]
    assert names == ["archs", "front.csv"]
    copy = tracker.client.download_artifacts(run.id, "archs/base.yaml", str(tmp_path))
    assert Path(copy).read_text() == "depth: 2\n"
    below = children(tracker, run)
    assert [child.info.run_name for child in below] == ["base", "largest"]
    assert {child.info.status for child in below} == {"FINISHED"}
    assert below[0].data.params == {"stages.0.depth": "2"}
    assert below[0].data.metrics == {"test_top1": 91.25}
    assert below[0].data.tags["front"] == "test"
    assert warnings == []


def test_a_child_of_the_same_name_and_other_params_takes_its_place(tracker: Tracker) -> None:
    """A front that changed leaves no stale member behind."""
    with tracker.start("search", {}) as run:
        run.child("base", {"depth": 2}, {"top1": 1.0})
        run.child("base", {"depth": 2}, {"top1": 1.0})
        run.child("base", {"depth": 3}, {"top1": 2.0})
    assert [child.data.params for child in children(tracker, run)] == [{"depth": "3"}]


def test_what_is_not_finite_leaves_a_note(tracker: Tracker, warnings: list[str]) -> None:
    """NaN and infinities make no points; a tag and one warning a curve tell of them."""
    with tracker.start("nan", {}) as run:
        for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
            run.log({"loss": value}, step)
        run.child("base", {}, {"top1": math.nan, "macs": 3.0})
    assert curve(tracker, run, "loss") == [(0, 1.0), (3, 2.0)]
    assert read(tracker, run).data.tags["not_finite"] == "loss: 2 from step 1"
    assert children(tracker, run)[0].data.metrics == {"macs": 3.0}
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED"), (ValueError("no\nway"), "FAILED")],
)
def test_the_status_tells_how_a_run_ended(
    tracker: Tracker, error: BaseException, status: str
) -> None:
    """An exception is FAILED, Ctrl-C and a signal's SystemExit are KILLED; points are not lost."""
    run = tracker.start("ends", {})
    with pytest.raises(type(error)), run:
        run.log({"loss": 1.0}, 0)
        raise error
    found = read(tracker, run)
    assert found.info.status == status
    assert found.data.tags["error"] == ("no" if status == "FAILED" else type(error).__name__)
    assert found.data.metrics == {"loss": 1.0}


def test_a_lock_in_mid_run_loses_nothing(
    tracker: Tracker, warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, no waiting, and everything is there once the other program lets go."""
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.05)
    file = tmp_path / "front.csv"
    file.write_text("1")
    run = tracker.start("locked", {})
    start = time.monotonic()
    with locked(tracker):
        for step in range(1500):
            run.log({"loss": float(step)}, step)
        run.artifact(file)
        run.child("base", {"depth": 2}, {"top1": 90.0})
        assert not run.flush()
    assert time.monotonic() - start < 2
    run.close()
    assert len(curve(tracker, run, "loss")) == 1500
    assert len(children(tracker, run)) == 1
    assert [item.path for item in tracker.client.list_artifacts(run.id)] == ["front.csv"]
    assert read(tracker, run).info.status == "FINISHED"
    assert len(warnings) == 1
    assert "locked" in warnings[0]


def test_a_file_that_vanished_hinders_nothing_else(
    tracker: Tracker, warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can never be sent is told of at the end; what comes after it is sent."""
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.05)
    file = tmp_path / "gone.csv"
    file.write_text("1")
    with tracker.start("vanished", {}) as run:
        with locked(tracker):
            run.artifact(file)
        file.unlink()
        run.log({"loss": 1.0}, 0)
    found = read(tracker, run)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 1.0})
    assert "lacks 0 points and 1 other entries" in warnings[-1]


def test_a_full_disk_in_mid_run_loses_nothing(
    tracker: Tracker, warnings: list[str], tmp_path: Path
) -> None:
    """The database may not grow for a while; the points are kept, and sent when it may."""
    run = tracker.start("full", {})
    assert tracker.store.database
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tracker.store.database.stat().st_size, old[1]))
    try:
        for step in range(3000):
            run.log({"loss": float(step), "accuracy": 0.5}, step)
        sent = run.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not sent
    assert len(warnings) == 1
    run.close()
    assert len(curve(tracker, run, "loss")) == len(curve(tracker, run, "accuracy")) == 3000


def test_a_locked_database_is_refused_at_the_start(
    tracker: Tracker, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, soon."""
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.05)
    with locked(tracker), pytest.raises(UserError, match=r"mlflow\.db is locked by another"):
        Tracker("tests", folder=scene.folder)


def test_a_database_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    """A folder that is a file, and a file that is no database."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="unable to open database file"):
        Tracker("tests", folder=tmp_path / "file")
    (tmp_path / "mlflow.db").write_text("no database, but some text " * 50)
    with pytest.raises(UserError, match="file is not a database"):
        Tracker("tests", folder=tmp_path)


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/data/mlruns", "file:///data/mlruns"])
def test_a_store_of_plain_folders_is_refused_at_the_start(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow 3.7 stopped writing them; the sentence says what to do."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"no longer writes plain folders .*unset MLFLOW_TRACKING"):
        Tracker("tests")


def test_a_server_that_does_not_answer_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a closed port nor a silent server holds a run up; the password stays secret."""
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(UserError, match=f"no MLflow server answers at http://{address} "):
                Tracker("tests", uri=f"http://me:secret@{address}")
            assert time.monotonic() - start < 2
            silent.listen()


def test_which_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An argument, else the variable, else mlflow.db here; absolute, but shown as one types it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Store.of().uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert Store.of().artifacts == f"file://{tmp_path}/mlartifacts"
    assert Store.of().look == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other/my.db")
    assert Store.of().database == tmp_path / "other" / "my.db"
    assert Store.of("sqlite:////x/y.db").uri == "sqlite:////x/y.db"
    server = Store.of("https://me:secret@host:5000")
    assert (server.look, server.artifacts) == ("https://host:5000", None)


def test_texts_fit_into_mlflow() -> None:
    """Nested recipes are flat, long values say that they are cut, odd names are cleaned."""
    nested = {"a": {"b": (1, 2), "c": None}, "d": True}
    assert flatten(nested) == {"a.b": "1, 2", "a.c": None, "d": True}
    assert cut("x" * 6000) == "x" * 6000
    long = cut("x" * 6001)
    assert len(long) == 6000
    assert long.endswith("x ... (cut from 6001 characters)")
    assert clean_key("top1 (%)") == "top1 ___"
    assert clean_key("stages.0/w-1_a:b") == "stages.0/w-1_a:b"
