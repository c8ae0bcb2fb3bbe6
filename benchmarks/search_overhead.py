"""What a search costs beside its evaluations.

    python benchmarks/search_overhead.py                     # both parts, about 10 minutes
    python benchmarks/search_overhead.py --part loop --json loop.json

Part `ray`: the wall time of the search phase under Ray Tune (first proposal to last score, from the
journal's own times) over that of the same evaluations, in the same order, by the same number of the
same evaluator processes, without Tune, Optuna and journal. Both in turns; medians of the rounds.
The evaluation is matrix products on one thread (`--work cpu`, of `--seconds` when nothing else
runs) or a sleep. Starting Ray and the evaluators is told apart. `pss`: the memory of all processes
together, in the midst of the search.

Part `loop`: CPU and wall time of a trial whose evaluation takes no time, in one process: proposing,
journal (fsync included), telling; means over the 100 trials before the given number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from twins_nas.arch import ArchConfig
from twins_nas.provenance import git_commit, machine
from twins_nas.tuning.journal import Journal
from twins_nas.tuning.ray_cluster import Resources, cluster
from twins_nas.tuning.ray_runner import RayPool, run_ray
from twins_nas.tuning.results import Score, Scored
from twins_nas.tuning.runner import Evaluator, LocalPool, run_search
from twins_nas.tuning.spec import StudySpec
from twins_nas.tuning.study import Search, SearchStudy, journal_path
from twins_nas.tuning.toy import Toy, toy_cost, toy_space

SPACE = toy_space(untied=True)
SIDE = 384
MARKS = (100, 1000, 5000)


@dataclass(frozen=True)
class Work:
    """Makes evaluators that multiply matrices `products` times, or sleep, and score as the toy."""

    products: int
    sleep: float

    def __call__(self) -> Evaluator:
        """An evaluator."""
        import torch

        torch.set_num_threads(1)
        score, matrix = Toy(SPACE)(), torch.ones(SIDE, SIDE) / SIDE

        def evaluate(arch: ArchConfig) -> Score:
            start = time.perf_counter()
            time.sleep(self.sleep)
            product = matrix
            for _ in range(self.products):
                product = product @ matrix
            return score(arch)._replace(seconds=time.perf_counter() - start)

        return evaluate


def calibrated(seconds: float) -> int:
    """How many products take that long here, when nothing else runs: the quickest of some tries."""
    evaluate = Work(200, 0.0)()
    quickest = min(float(evaluate(SPACE.base).seconds) for _ in range(10))
    return max(1, round(200 * seconds / quickest))


def moments(path: Path) -> tuple[float, float]:
    """When the first trial was proposed and the last one told."""
    journal = Journal(path, write=False)
    journal.close()
    starts = [log["datetime_start"] for log in journal.logs if "datetime_start" in log]
    ends = [log["datetime_complete"] for log in journal.logs if "datetime_complete" in log]
    first, last = datetime.fromisoformat(min(starts)), datetime.fromisoformat(max(ends))
    return first.timestamp(), last.timestamp()


def pss() -> float:
    """GB of this process and of all below it, shared pages counted once."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**30


def under_ray(search: Search, work: Work, evaluators: int, seed: int) -> dict[str, Any]:
    """One search under Ray Tune: its seconds, those of the start, its order of evaluations."""
    memory: list[float] = []

    def on_scored(row: Scored) -> None:
        if row.number == search.spec.trials // 2:
            memory.append(pss())

    with tempfile.TemporaryDirectory() as folder:
        begin = time.time()
        rows = run_ray(Path(folder), search, (seed,), work, Resources(evaluators), on_scored)
        first, last = moments(journal_path(Path(folder), seed))
    archs = [row.arch for row in rows if not row.cached]
    return {"seconds": last - first, "start": first - begin, "archs": archs, "pss": memory[0]}


def bare(archs: list[ArchConfig], work: Work, evaluators: int) -> float:
    """Seconds of the same evaluations by as many evaluators, without anything around them."""
    import ray

    resources = Resources(evaluators)
    with cluster(resources):
        reference = ray.put(work)
        pool = RayPool(reference, resources)
        begin = time.perf_counter()
        for ticket, arch in enumerate(archs):
            pool.submit(ticket, arch)
        for _ in archs:
            assert isinstance(pool.next_done().outcome, Score)
        seconds = time.perf_counter() - begin
        pool.close()
    return seconds


def ray_part(args: argparse.Namespace) -> dict[str, Any]:
    """The ratio under Ray."""
    work = Work(calibrated(args.seconds), 0.0) if args.work == "cpu" else Work(0, args.seconds)
    search = Search(SPACE, StudySpec(args.trials, population=50), toy_cost(SPACE))
    rounds = []
    for number in range(args.rounds):
        one = under_ray(search, work, args.evaluators, number)
        archs = one.pop("archs")
        rounds.append({**one, "bare": bare(archs, work, args.evaluators), "scored": len(archs)})
        print(f"round {number}: " + ", ".join(f"{k} {v:.2f}" for k, v in rounds[-1].items()))
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    ratio = middle["seconds"] / middle["bare"]
    print(
        f"{args.trials} trials, {args.evaluators} evaluators, {args.work} {args.seconds} s:"
        f" search {middle['seconds']:.1f} s, bare {middle['bare']:.1f} s, ratio {ratio:.3f};"
        f" start {middle['start']:.1f} s; all processes {middle['pss']:.2f} GB"
    )
    return {"rounds": rounds, "median": middle, "ratio": ratio}


def loop_part(args: argparse.Namespace) -> dict[str, Any]:
    """The cost of a trial as the study grows."""
    found: dict[str, Any] = {}
    print("sampler  trial  CPU ms  wall ms")
    for sampler in args.samplers:
        marks = [mark for mark in MARKS if mark <= args.most]
        search = Search(
            SPACE, StudySpec(marks[-1], sampler=sampler, population=50), toy_cost(SPACE)
        )
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            study = SearchStudy(Path(folder), search, 0)
            begin: dict[str, float] = {}

            def on_scored(
                row: Scored, begin: dict[str, float] = begin, name: str = sampler
            ) -> None:
                number = row.number + 1
                if number + 100 in MARKS or number == 1:
                    begin.update(number=number, cpu=time.process_time(), wall=time.perf_counter())
                if number in MARKS:
                    count = number - begin["number"]
                    cpu = 1000 * (time.process_time() - begin["cpu"]) / count
                    wall = 1000 * (time.perf_counter() - begin["wall"]) / count
                    found[f"{name} {number}"] = {"cpu_ms": cpu, "wall_ms": wall}
                    print(f"{name:8} {number:5}  {cpu:6.2f}  {wall:7.2f}", flush=True)

            score = Score(50.0, 1.0, 1000, 0.0)
            run_search(study, LocalPool(lambda score=score: lambda arch: score), on_scored)
            study.close()
            size = journal_path(Path(folder), 0).stat().st_size
            begin_look = time.perf_counter()
            SearchStudy.look(Path(folder), search, 0)
            seconds = time.perf_counter() - begin_look
        print(f"{sampler:8} journal {size / 2**20:.1f} MB, read again in {seconds:.1f} s")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("ray", "loop", "both"), default="both")
    parser.add_argument("--work", choices=("cpu", "sleep"), default="cpu")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluators", type=int, default=2)
    parser.add_argument("--most", type=int, default=5000, help="the most trials of part loop")
    parser.add_argument("--samplers", nargs="+", default=["nsga2", "random"])
    parser.add_argument("--folder", help="where part loop keeps its journals for the while")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": git_commit(),
        "versions": {name: version(name) for name in ("ray", "optuna", "torch")},
        "arguments": {name: str(value) for name, value in vars(args).items()},
    }
    if args.part in ("loop", "both"):
        result["loop"] = loop_part(args)
    if args.part in ("ray", "both"):
        result["ray"] = ray_part(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
