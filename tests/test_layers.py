"""The house: a file imports only ranks below its own, or its own package.

The edges stay at the edge.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

RANKS = {
    0: ["errors", "files", "layer_cost"],
    1: ["arch"],
    2: ["seeds", "published", "cost", "yaml_nodes", "schema"],
    3: ["space", "space_schema", "space_fill", "space_yaml", "config"],
    4: [
        *["recipes", "ablation_recipe", "explore_recipe", "bank_recipe"],
        *["runs", "model", "timm_models", "progress"],
    ],
    5: [
        *["data", "evaluate", "stats", "power", "verdicts", "sequential", "ranks"],
        *["truth", "agreement"],
        *["provenance", "store", "tracking", "onnx_export"],
    ],
    6: ["training", "deployable", "proxies", "prior"],
    7: ["tuning"],
    8: ["ablation", "effects", "banks", "supernets"],
    9: ["report"],
    10: [
        *[
            "pipeline",
            "search",
            "experiment",
            "exploration",
            "supernet_study",
            "ablate",
            "instrument",
            "insight",
        ],
        *["banking", "bank", "ranking", "rank", "retraining", "retrain", "profile", "export"],
    ],
}
"""Within a rank, files import one another in the order that they are named in."""

ORDER = [(rank, place, name) for rank, names in RANKS.items() for place, name in enumerate(names)]
RANK_OF = {name: (rank, place) for rank, place, name in ORDER}
EDGES = {
    "mlflow": {"tracking.py"},
    "ray": {"tuning/ray_cluster.py", "tuning/ray_runner.py", "tuning/ray_jobs.py"},
    "optuna": {"tuning/optuna_sampler.py", "tuning/importance.py"},
    "onnx": {"onnx_export.py"},
    "onnxscript": {"onnx_export.py"},
    "onnxruntime": {"onnx_export.py"},
    "timm": {"timm_models.py", "model/timm_arch.py"},
}


def sources(repo: Path) -> list[Path]:
    """All files of the package."""
    return sorted((repo / "twins_nas").rglob("*.py"))


def room(file: Path, package: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return file.relative_to(package).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def test_every_room_has_a_rank(repo: Path) -> None:
    """A new file must say where it belongs."""
    package = repo / "twins_nas"
    rooms = {room(file, package) for file in sources(repo)} - {"__init__"}
    assert rooms <= set(RANK_OF), rooms - set(RANK_OF)


def test_imports_run_one_way(repo: Path) -> None:
    """Nothing imports its own rank's later files or a higher rank."""
    package = repo / "twins_nas"
    wrong = []
    for file in sources(repo):
        here = room(file, package)
        for name in imported(file):
            parts = name.split(".")
            if parts[0] != "twins_nas" or len(parts) < 2 or parts[1] == here or here == "__init__":
                continue
            if RANK_OF[parts[1]] >= RANK_OF[here]:
                wrong.append(f"{file.relative_to(repo)} imports {name}")
    assert not wrong, wrong


def test_edges_are_imported_by_their_files(repo: Path) -> None:
    """MLflow and ONNX each have one file, Optuna and timm have two, Ray those of its name."""
    package = repo / "twins_nas"
    for library, allowed in EDGES.items():
        users = {
            file.relative_to(package).as_posix()
            for file in sources(repo)
            if any(name.split(".")[0] == library for name in imported(file))
        }
        assert users == allowed, library


def test_the_wheel_holds_every_package(repo: Path) -> None:
    """A folder that is not listed would be missed by who installs, not by who clones."""
    with (repo / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    found = {path.parent.relative_to(repo) for path in (repo / "twins_nas").rglob("__init__.py")}
    assert {".".join(path.parts) for path in found} <= set(listed)


def test_no_file_is_over_450_lines(repo: Path) -> None:
    """A file that grows past it has two purposes."""
    long = {
        file.name: lines for file in sources(repo) if (lines := file.read_text().count("\n")) > 450
    }
    assert not long


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
{code}
"""


@pytest.mark.parametrize(
    ("blocked", "code"),
    [
        (
            ["ray", "mlflow", "optuna", "timm"],
            "import twins_nas.config, twins_nas.cost, twins_nas.model.backbone,"
            " twins_nas.model.transfer, twins_nas.model.timm_backbone,"
            " twins_nas.evaluate, twins_nas.training.loop, twins_nas.data",
        ),
        (
            ["ray", "mlflow", "timm"],
            "import twins_nas.tuning.study, twins_nas.tuning.runner, twins_nas.tuning.pareto",
        ),
        (
            ["torch", "timm", "ray", "mlflow", "optuna", "matplotlib", "plotly", "scipy", "onnx"],
            "import twins_nas.config, twins_nas.recipes, twins_nas.search, twins_nas.cost,"
            " twins_nas.profile, twins_nas.export, twins_nas.ablate, twins_nas.ablation.variants,"
            " twins_nas.insight, twins_nas.rank, twins_nas.bank, twins_nas.banks.bank",
        ),
    ],
    ids=["core without its edges", "search without ray and mlflow", "a typo without torch"],
)
def test_imports_that_must_do_without(repo: Path, blocked: list[str], code: str) -> None:
    """What is an edge can be absent.

    What is slow is not imported before the arguments are checked.
    """
    script = BLOCKED.format(names=set(blocked), code=code)
    done = subprocess.run([sys.executable, "-c", script], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
