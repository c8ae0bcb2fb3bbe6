"""Pictures of a run in MLflow's own pages, and of its `front.html`, for the documentation.

    python scripts/mlflow_pictures.py --store sqlite:///mlflow.db --page runs/x/front.html

It starts `mlflow ui` for the store on a free port of this machine, opens the newest parent run in a
headless Chromium (Debian: `apt-get install chromium chromium-driver`), waits for what each picture
shall show, and ends both. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from twins_nas.errors import UserError, exit_with
from twins_nas.store import Store

SIZE, TALL = (1360, 800), (1360, 1200)
HIDE = "[data-assistant-ui], .modebar { display: none !important }"
SETTINGS = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.workflowType_v1": '"machine_learning"',
}
PAGE_SIZE = (1200, 800)
START_SECONDS, WAIT_SECONDS, SETTLE_SECONDS = 120.0, 60.0, 2.5
SERVER_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@dataclass(frozen=True)
class Browser:
    """A WebDriver session, spoken over HTTP without a library."""

    session: str

    def open(self, address: str, size: tuple[int, int]) -> None:
        """Goes to a page, loaded anew, in a window whose inside has the size."""
        rect = {"width": size[0], "height": size[1] + self._frame(size)}
        call(f"{self.session}/window/rect", rect)
        for place in ("about:blank", address):
            call(f"{self.session}/url", {"url": place})

    def run(self, script: str, *arguments: str | int) -> Any:
        """The value that a script returns."""
        return call(f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, *words: str) -> None:
        """Returns once the page shows all the words.

        Raises:
            UserError: it does not within a minute.
        """
        script = (
            "return document.body.innerText + [...document.querySelectorAll('[placeholder]')]"
            ".map((one) => one.placeholder).join(' ')"
        )
        missing = f"the page did not show {', '.join(words)} in {WAIT_SECONDS:.0f} s"
        wait(lambda: all(word in self.run(script) for word in words), WAIT_SECONDS, missing)
        time.sleep(SETTLE_SECONDS)

    def hover(self, x: int, y: int) -> None:
        """Moves the pointer over a place of the window."""
        move = {"type": "pointerMove", "duration": 50, "x": x, "y": y}
        pointer = {"type": "pointer", "id": "mouse", "actions": [move]}
        call(f"{self.session}/actions", {"actions": [pointer]})
        time.sleep(1)

    def save(self, path: Path) -> None:
        """Writes what the window shows, without MLflow's assistant and the charts' buttons."""
        self.run(
            "document.head.append(Object.assign(document.createElement('style'),"
            " {textContent: arguments[0]}))",
            HIDE,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(call(f"{self.session}/screenshot")))
        Image.open(path).convert("RGB").save(path, optimize=True)
        print(f"{path} ({path.stat().st_size // 1024} kB)")

    def _frame(self, size: tuple[int, int]) -> int:
        call(f"{self.session}/window/rect", {"width": size[0], "height": size[1]})
        return int(size[1] - self.run("return window.innerHeight"))


def call(address: str, body: object = None) -> Any:
    """A JSON request, and the `value` of its answer where it has one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.loads(answer.read() or b"null")
    return found["value"] if isinstance(found, dict) and "value" in found else found


def wait(ready: Callable[[], bool], seconds: float, problem: str) -> None:
    """Waits for something; a closed connection counts as not yet.

    Raises:
        UserError: it took too long; says what.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if ready():
                return
        time.sleep(0.3)
    raise UserError(f"{problem}.")


@contextlib.contextmanager
def served(words: Sequence[str], environment: dict[str, str], health: str) -> Iterator[None]:
    """Runs a server until the end of the block, from when its health page answers."""
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(
            words,
            env={**os.environ, **environment},
            stdout=noise,
            stderr=noise,
            start_new_session=True,
        )
        try:
            name = Path(words[0]).name
            problem = f"{name} did not answer at {health} in {START_SECONDS:.0f} s"
            wait(lambda: bool(urllib.request.urlopen(health, timeout=5)), START_SECONDS, problem)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            process.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def mlflow_ui(store: Store) -> Iterator[str]:
    """The address of an MLflow server over the store."""
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store.uri]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    address = f"http://127.0.0.1:{port}"
    with served(words, SERVER_ENVIRONMENT, f"{address}/health"):
        yield address


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium with a fresh profile."""
    for program in ("chromedriver", "chromium"):
        if not shutil.which(program):
            hint = "apt-get install chromium chromium-driver"
            raise UserError(f"{program} is not installed; on Debian: {hint}.")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        served(["chromedriver", f"--port={port}"], {}, f"{address}/status"),
    ):
        flags = [*CHROMIUM_FLAGS, f"--user-data-dir={profile}"]
        options = {"args": flags, "binary": shutil.which("chromium")}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = f"{address}/session/{call(f'{address}/session', wanted)['sessionId']}"
        try:
            yield Browser(session)
        finally:
            request = urllib.request.Request(session, method="DELETE")
            urllib.request.urlopen(request, timeout=30).close()


def all_runs(address: str) -> list[dict[str, Any]]:
    """The runs of all experiments, the newest first.

    Raises:
        UserError: an empty store.
    """
    api = f"{address}/api/2.0/mlflow"
    found = call(f"{api}/experiments/search", {"max_results": 1000})["experiments"]
    wanted = {"experiment_ids": [one["experiment_id"] for one in found], "max_results": 1000}
    runs = call(f"{api}/runs/search", {**wanted, "order_by": ["start_time DESC"]}).get("runs", [])
    if not runs:
        raise UserError("the store has no run to show.")
    return list(runs)


def parent_of(run: dict[str, Any]) -> str:
    """The id of the run that a run is below of."""
    tags = {tag["key"]: str(tag["value"]) for tag in run["data"].get("tags", [])}
    return tags.get("mlflow.parentRunId", "")


def choose(runs: list[dict[str, Any]], run_id: str | None) -> dict[str, Any]:
    """The run of that id, else the newest one that has runs below it, else the newest.

    Raises:
        UserError: there is none of that id.
    """
    parents = {run_id} if run_id else {parent_of(run) for run in runs}
    found = [run for run in runs if run["info"]["run_id"] in parents]
    if run_id and not found:
        raise UserError(f"the store has no run {run_id}.")
    return (found or runs)[0]


def columns(runs: list[dict[str, Any]], run_id: str) -> list[str]:
    """MLflow's names of the columns that tell the runs below a run apart."""
    below = [run for run in runs if parent_of(run) == run_id]
    names = [one["key"] for one in (below or runs)[0]["data"].get("metrics", [])]
    ends = ("_low", "_high")
    return [f"metrics.`{name}`" for name in sorted(names) if not name.endswith(ends)][:6]


def take_mlflow(shown: Browser, address: str, run_id: str | None, folder: Path) -> None:
    """The list of runs, then the run's overview, charts and artifacts."""
    shown.open(f"{address}/health", SIZE)
    for key, value in SETTINGS.items():
        shown.run("localStorage.setItem(arguments[0], arguments[1])", key, value)
    runs = all_runs(address)
    run = choose(runs, run_id)
    run_id, name = str(run["info"]["run_id"]), run["info"]["run_name"]
    experiment = f"{address}/#/experiments/{run['info']['experiment_id']}"
    shown.open(f"{experiment}/runs", SIZE)
    shown.wait_for(name)
    shown.run(
        "const key = Object.keys(localStorage).find((one) => one.includes('ExperimentPage'));"
        "const state = JSON.parse(localStorage.getItem(key));"
        "state.selectedColumns = JSON.parse(arguments[0]);"
        "state.runsExpanded = {[arguments[1]]: true};"
        "localStorage.setItem(key, JSON.stringify(state));",
        json.dumps(columns(runs, run_id)),
        run_id,
    )
    page = f"{experiment}/runs/{run_id}"
    for file, place, size, words in (
        ("mlflow_runs", f"{experiment}/runs", SIZE, (name,)),
        ("mlflow_run", page, TALL, (name, "Parameters")),
        ("mlflow_charts", f"{page}/model-metrics", TALL, (name, "Search metric charts")),
        ("mlflow_artifact_png", f"{page}/artifacts/front.png", SIZE, ("front.png", "Path")),
        ("mlflow_artifact_html", f"{page}/artifacts/front.html", SIZE, ("front.html", "Path")),
    ):
        shown.open(place, size)
        shown.wait_for(*words)
        shown.save(folder / f"{file}.png")


def take_page(shown: Browser, page: Path, folder: Path) -> None:
    """The search's own page, with the pointer on the base."""
    shown.open(page.absolute().as_uri(), PAGE_SIZE)
    shown.wait_for("The networks")
    place = shown.run(
        "const text = [...document.querySelectorAll('.textpoint text')]"
        ".find((one) => one.textContent === 'base');"
        "const name = text && text.closest('.trace').querySelectorAll('.point');"
        "const all = text && [...text.closest('.trace').querySelectorAll('.textpoint')];"
        "const box = text && name[all.indexOf(text.parentNode)].getBoundingClientRect();"
        "return box ? [box.x + box.width / 2, box.y + box.height / 2] : null"
    )
    if place:
        shown.hover(round(place[0]), round(place[1]))
    shown.save(folder / "front_page.png")


def main() -> int:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--store", help="the MLflow store (default: MLFLOW_TRACKING_URI, mlflow.db)"
    )
    parser.add_argument("--run", help="id of the run (default: the newest with runs below it)")
    parser.add_argument("--page", type=Path, help="a front.html to take a picture of, too")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder")
    given = parser.parse_args()
    store = Store.of(given.store)
    if store.database and not store.database.is_file():
        raise UserError(f"there is no MLflow store at {store.database}.")
    with browser() as shown:
        if given.page:
            take_page(shown, given.page, given.out)
        with mlflow_ui(store) as address:
            take_mlflow(shown, address, given.run, given.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
