"""Searches under a real Ray: the same rows as without it, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.tuning.results import Score, Scored
from twins_nas.tuning.runner import Evaluator, LocalPool, run_search
from twins_nas.tuning.spec import StudySpec
from twins_nas.tuning.study import Search, SearchStudy, journal_path
from twins_nas.tuning.toy import Toy, toy_cost, toy_space

SPACE = toy_space()
SEARCH = Search(SPACE, StudySpec(40, population=20), toy_cost(SPACE))
SECONDS = 0.05


@dataclass(frozen=True)
class Counting:
    """Makes evaluators of the toy that write down each architecture they score."""

    log: Path
    seconds: float = SECONDS

    def __call__(self) -> Evaluator:
        """An evaluator."""
        score = Toy(SPACE, self.seconds)()

        def counted(arch: ArchConfig) -> Score:
            outcome = score(arch)
            with self.log.open("a") as file:
                file.write(SPACE.key(arch) + "\n")
            return outcome

        return counted


@dataclass(frozen=True)
class Broken:
    """Makes no evaluator."""

    def __call__(self) -> Evaluator:
        """Raises."""
        raise RuntimeError("weights of another network")


def untimed(rows: list[Scored]) -> list[Scored]:
    """Rows without what differs from run to run."""
    return [replace(row, seconds=0) for row in rows]


def local(folder: Path, seeds: tuple[int, ...]) -> list[Scored]:
    """The same search in this process."""
    rows = []
    for seed in seeds:
        study = SearchStudy(folder, SEARCH, seed)
        run_search(study, LocalPool(Toy(SPACE)))
        study.close()
        rows += study.scored
    return rows


def workers(name: str) -> list[psutil.Process]:
    """Ray's workers of this process that run something of that name, oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith(f"ray::{name}"):
                found.append((process.create_time(), process.pid, process))
        except (psutil.Error, IndexError):
            continue
    return [process for _, _, process in sorted(found)]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for the tests of this file that need not kill it."""
    from twins_nas.tuning.ray_cluster import Resources, cluster

    with cluster(Resources(2)):
        yield


def killing(name: str, at: int, killed: list[int]) -> Callable[[Scored], None]:
    """Kills the first worker of a name when the row with a number comes."""

    def on_scored(row: Scored) -> None:
        if row.number >= at and not killed:
            process = workers(name)[0]
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    return on_scored


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("victim", ["_Evaluator", "ImplicitFunc"])
def test_a_killed_process_loses_nothing(victim: str, tmp_path: Path) -> None:
    """Neither an evaluator's death nor that of the search's own process changes the rows."""
    from twins_nas.tuning.ray_cluster import Resources
    from twins_nas.tuning.ray_runner import run_ray

    log, killed, seen = tmp_path / "log", list[int](), list[Scored]()
    kill = killing(victim, 8, killed)

    def on_scored(row: Scored) -> None:
        seen.append(row)
        kill(row)

    rows = run_ray(tmp_path / "ray", SEARCH, (0,), Counting(log), Resources(2), on_scored)
    assert len(killed) == 1
    assert untimed(rows) == untimed(local(tmp_path / "local", (0,)))
    assert untimed(seen) == untimed(rows)
    scored = log.read_text().splitlines()
    again = len(scored) - len(set(scored))
    assert set(scored) == {row.key for row in rows} and again <= 4


@pytest.mark.usefixtures("ray")
def test_seeds_share_scores_and_finished_ones_start_nothing(tmp_path: Path) -> None:
    """Two seeds, then the same call again: all rows at once, none of them given anew."""
    from twins_nas.tuning.ray_cluster import Resources
    from twins_nas.tuning.ray_runner import run_ray

    log, seen = tmp_path / "log", list[Scored]()
    search = SEARCH._replace(spec=replace(SEARCH.spec, trials=12))
    about = (tmp_path / "ray", search, (3, 1), Counting(log, 0.0), Resources(2))
    rows = run_ray(*about, seen.append)
    assert [(row.seed, row.number) for row in rows] == [(s, n) for s in (3, 1) for n in range(12)]
    assert [row.cached for row in rows if row.seed == 1][:3] == [True] * 3
    scored = log.read_text().splitlines()
    assert len(scored) == len(set(scored)) and seen == rows
    start = time.monotonic()
    assert run_ray(*about, seen.append) == rows
    assert time.monotonic() - start < 1 and len(seen) == 24
    assert log.read_text().splitlines() == scored


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch's threads as they were, after an evaluator has set them to one."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("ray", "one_thread")
def test_a_supernet_scores_in_evaluators_as_it_does_here(tmp_path: Path) -> None:
    """The real objective: Ray shares weights and images, and the rows are those of this process."""
    import numpy as np

    from twins_nas.data import Images
    from twins_nas.model.backbone import Backbone, initialise
    from twins_nas.tuning.objective import Payload, factory
    from twins_nas.tuning.ray_cluster import Resources
    from twins_nas.tuning.ray_runner import run_ray

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    images = Images.from_numpy(pixels, rng.integers(0, 10, 64))
    model = Backbone(SPACE, in_chans=3, num_classes=10)
    initialise(model, 0)
    payload = Payload.of(model, images, (0.5,) * 3, (0.25,) * 3)
    search = SEARCH._replace(spec=replace(SEARCH.spec, trials=12))
    resources = Resources(2, payload_bytes=payload.bytes)
    rows = run_ray(tmp_path / "ray", search, (0,), factory(payload), resources)
    study = SearchStudy(tmp_path / "local", search, 0)
    run_search(study, LocalPool(factory(payload)))
    study.close()
    assert len(rows) == 12
    assert [row.key for row in rows] == [row.key for row in study.scored]
    for one, other in zip(rows, study.scored, strict=True):
        assert (one.top1, one.n) == (other.top1, 64)
        assert one.loss == other.loss


@pytest.mark.usefixtures("ray")
def test_faults_come_back_as_sentences(tmp_path: Path) -> None:
    """An evaluator that cannot be made, a journal of another search, a fault of the caller's."""
    from twins_nas.tuning.ray_cluster import Resources
    from twins_nas.tuning.ray_runner import run_ray

    with pytest.raises(UserError, match="weights of another network"):
        run_ray(tmp_path, SEARCH, (0,), Broken(), Resources(1))
    journal_path(tmp_path, 0).unlink()
    local(tmp_path, (0,))
    other = SEARCH._replace(context="other weights")
    with pytest.raises(UserError, match="belongs to another search"):
        run_ray(tmp_path, other, (0,), Toy(SPACE), Resources(1))

    def full(row: Scored) -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match=r"^the disk is full$"):
        run_ray(tmp_path, SEARCH, (1,), Toy(SPACE), Resources(1), full)


def driver(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process of its own, and of its own group, that runs the search."""
    script = (
        "import signal, sys; sys.path.insert(0, sys.argv[1])\n"
        # A shell has its background jobs, and so this test's processes, ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from test_ray import SEARCH, Counting\n"
        "from twins_nas.errors import exit_with\n"
        "from twins_nas.tuning.ray_cluster import Resources\n"
        "from twins_nas.tuning.ray_runner import run_ray\n"
        "folder = Path(sys.argv[2])\n"
        "factory = Counting(folder / 'log', float(sys.argv[3]))\n"
        "def main():\n"
        "    run_ray(folder, SEARCH, (0,), factory, Resources(2),\n"
        "            lambda row: print(row.number, flush=True))\n"
        "    return 0\n"
        "exit_with(main)\n"
    )
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", script, str(here), str(folder), str(seconds)],
        cwd=here.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(process: subprocess.Popen[str], number: int) -> None:
    """Reads the driver's rows up to a number."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= number:
            return
    assert process.stderr is not None
    pytest.fail(f"the driver ended early: {process.stderr.read()[-2000:]}")


@pytest.mark.long
def test_a_killed_driver_and_a_stopped_one_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL of the whole group, then Ctrl-C, then to the end: every finished score is kept."""
    folder = tmp_path / "ray"
    folder.mkdir()
    first = driver(folder, 0.15)
    until(first, 8)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    look = SearchStudy.look(folder, SEARCH, 0)
    assert look is not None and 8 < len(look.scored) < 40

    second = driver(folder, 0.6)
    until(second, len(look.scored) + 5)
    start = time.monotonic()
    os.killpg(second.pid, signal.SIGINT)
    out, err = second.communicate(timeout=30)
    assert second.returncode == 130 and time.monotonic() - start < 10
    assert err.strip().lower() == "stopped." and "Traceback" not in out
    after = SearchStudy.look(folder, SEARCH, 0)
    assert after is not None and after.scored[: len(look.scored)] == look.scored

    third = driver(folder, 0.0)
    out, err = third.communicate(timeout=60)
    assert third.returncode == 0 and err == ""
    assert int(out.split()[0]) >= len(after.scored)
    end = SearchStudy.look(folder, SEARCH, 0)
    assert end is not None and end.finished
    assert end.scored[: len(after.scored)] == after.scored
    assert untimed(end.scored) == untimed(local(tmp_path / "local", (0,)))
    scored = (folder / "log").read_text().splitlines()
    finished = {row.key for row in look.scored}
    assert len(scored) - len(set(scored)) <= 2 * SEARCH.spec.window
    assert all(scored.count(key) == 1 for key in finished)


def test_ray_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is too busy Ray gives up after 30 seconds."""
    import ray

    from twins_nas.tuning.ray_cluster import Resources, cluster

    def init(**keys: object) -> None:
        raise Exception("The current node timed out during startup. More.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    said = r"Ray did not start: The current node timed out.*\n.*--local"
    with pytest.raises(UserError, match=said), cluster(Resources(1)):
        pytest.fail("it did")
