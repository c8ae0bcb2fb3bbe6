"""The way of one ranking: members scored by each supernet and by proxies, figures, report.

Each score is durable when it is known (`scores.csv`), so the same command again goes on.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from twins_nas.agreement import (
    BASELINE,
    EACH,
    PRIOR,
    SUPERNET,
    Findings,
    Scores,
    findings,
)
from twins_nas.data import ImageData, ImageSet, epoch_order, load, normalise
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.files import told, write_bytes, write_csv, write_text
from twins_nas.model.backbone import Backbone
from twins_nas.model.separate import supernet_of
from twins_nas.prior import Hint, hints_of, loss_deviation, reference
from twins_nas.progress import phase
from twins_nas.provenance import command, git_commit, machine
from twins_nas.proxies import PROXIES, Batch, score
from twins_nas.recipes import QUALITIES, SearchRecipe, SupernetRecipe
from twins_nas.report import ranking as report
from twins_nas.report.ablation_plots import as_png, as_svg
from twins_nas.report.rows import About
from twins_nas.runs import RunFolder
from twins_nas.space import SearchSpace
from twins_nas.tracking import Run, Tracker
from twins_nas.training.calibrate import Calibration
from twins_nas.training.checkpoint import load_weights
from twins_nas.training.device import device_of
from twins_nas.truth import Truth
from twins_nas.tuning.spec import OBJECTIVES

EXPERIMENT = "rank"
SIGNS = {name: 1.0 if OBJECTIVES[name] == "maximize" else -1.0 for name in QUALITIES}
HINTS = {"Zen": "Zen-scores", "size": "sizes"}
COLUMNS = ("of", "score", "key", "value")


@dataclass(frozen=True)
class Asked:
    """What a command asks for, besides supernets and bank.

    `images` of the validation part score a member; None: all. `headline` is top1, loss or adjusted;
    None: adjusted where all supernets have hints, else loss. Proxies take `proxy_images`
    of the training part and the mean over `proxy_seeds` initial weights. Members are tuned for
    `calibrate_steps` before they are scored, and their losses moved by hints of `zen_weight`
    and `size_weight`; None: as each recipe says.
    """

    images: int | None = None
    headline: str | None = None
    bins: int = 4
    proxy_images: int = 64
    proxy_seeds: int = 3
    calibrate_steps: int | None = None
    zen_weight: float | None = None
    size_weight: float | None = None
    seed: int = 0
    device: str | None = None
    data_root: str | None = None
    download: bool = False


@dataclass(frozen=True)
class Supernet:
    """A search's run with a trained supernet."""

    folder: RunFolder
    space: SearchSpace
    recipe: SearchRecipe
    data_root: str | None

    @property
    def name(self) -> str:
        """Its run's name."""
        return self.folder.path.name


class Book:
    """Scores that are known, in one file that is whole after each network."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[tuple[str, str, str], float] = {}
        if not path.is_file():
            return
        with told(path):
            text = path.read_text(encoding="utf-8")
        try:
            for line in csv.DictReader(io.StringIO(text, newline="")):
                self._values[line["of"], line["score"], line["key"]] = float(line["value"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error!r}); remove it to score anew.") from error

    def has(self, of: str, name: str, key: str) -> bool:
        """Whether a score is known."""
        return (of, name, key) in self._values

    def get(self, of: str, name: str, keys: Sequence[str]) -> list[float]:
        """Known scores of networks."""
        return [self._values[of, name, key] for key in keys]

    def put(self, of: str, key: str, scores: Mapping[str, float]) -> None:
        """Keeps the scores of a network.

        Raises:
            UserError: the file cannot be written.
        """
        self._values |= {(of, name, key): value for name, value in scores.items()}
        rows = ((*which, repr(value)) for which, value in self._values.items())
        write_csv(self.path, COLUMNS, (dict(zip(COLUMNS, row, strict=True)) for row in rows))


@dataclass
class Ranking:
    """One ranking from weights to report; `truth` lacks no run, `notes` say what it is not.

    Raises:
        UserError: what the user can mend: a data set, weights, a device, a disk, a store.
    """

    folder: Path
    supernets: Sequence[Supernet]
    truth: Truth
    asked: Asked
    notes: tuple[str, ...] = ()
    _counts: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def run(self) -> Findings:
        """Scores what is not scored yet, and reports."""
        tracker = Tracker(EXPERIMENT)
        with tracker.start(self.folder.name, self.params) as run:
            book = Book(self.folder / "scores.csv")
            scores = [*self.inherited(book), *self.prior(book), *self.proxies(book)]
            headline = self.words[self.headline]
            rng = np.random.default_rng(self.asked.seed)
            found = findings(self.truth, scores, headline, self.asked.bins, rng)
            self.report(found, scores, run)
        print(f"\nThe ranking: {self.folder}\nMLflow:      {tracker.store.look}", flush=True)
        return found

    @property
    def params(self) -> dict[str, object]:
        """What MLflow shows of it."""
        return {
            "supernets": ", ".join(one.name for one in self.supernets),
            "bank": self.truth.name,
            "part": self.truth.part_name,
            "networks": len(self.truth),
            "seeds": self.truth.top1_NS.shape[1],
            "asked": asdict(self.asked),
        }

    @cached_property
    def device(self) -> torch.device:
        """Where networks are scored."""
        return device_of(self.asked.device)

    def data_of(self, one: Supernet) -> ImageData:
        """The images of a supernet; it was not trained on their validation part."""
        root = self.asked.data_root or one.data_root
        data = load(
            one.recipe.data.name,
            root=Path(root) if root else None,
            input_size=one.space.input_size[0],
            download=self.asked.download,
            val_images=one.recipe.data.val_images,
            seed=one.recipe.seed,
        )
        self._counts[one.name] = len(data.train), len(data.val)
        return data

    def inherited(self, book: Book) -> list[Scores]:
        """Accuracy and negative loss with inherited weights, of all supernets and of each."""
        every: dict[str, list[list[float]]] = {name: [] for name in self.told}
        for one in self.supernets:
            for name, values in self.members(one, book).items():
                every[name].append(values)
        several = len(self.supernets) > 1
        found = []
        for name in sorted(self.told, key=lambda name: name != self.headline):
            values_MN = SIGNS[name] * np.array(every[name])
            found.append(Scores(self.words[name], SUPERNET, values_MN))
            for one, values_N in zip(self.supernets, values_MN if several else (), strict=False):
                found.append(Scores(f"{self.words[name]}, {one.name}", EACH, values_N[None]))
        return found

    def members(self, one: Supernet, book: Book) -> dict[str, list[float]]:
        """The scores of all networks of the bank as members of a supernet."""
        data = self.data_of(one)
        images = evenly(data.val, self.asked.images, one.name)
        of = f"{one.name}, weights {digest(one.folder.weights)}, {data.name}, {len(images)} images"
        calibration = Calibration.of(data, self.recipe_of(one), one.recipe.seed)
        if calibration is not None:
            of += f", {calibration.words}"
        keys = [one.space.key(arch) for arch in self.truth.archs]
        done = sum(book.has(of, "loss", key) for key in keys)
        asks = "adjusted" in self.told and not book.has(of, "deviation", "reference members")
        missing = done < len(keys) or asks
        model = trained(one.folder, one.space, one.recipe, data, self.device) if missing else None
        with phase(f"scores of {one.name}", len(keys), "network", done) as line:
            for arch, key in zip(self.truth.archs, keys, strict=True):
                if model is not None and not book.has(of, "loss", key):
                    subject = calibration(model, arch) if calibration else model
                    score = evaluate(subject, images, data.mean, data.std, arch)
                    book.put(of, key, {"top1": score.top1, "loss": score.loss})
                    line.advance()
        found = {name: book.get(of, name, keys) for name in self.told if name != "adjusted"}
        if "adjusted" in self.told:
            if asks:
                assert model is not None
                name = f"reference members of {one.name}"
                deviation = loss_deviation(name, model, data, images)
                book.put(of, "reference members", {"deviation": deviation})
            deviation = book.get(of, "deviation", ["reference members"])[0]
            moves_N = deviation * moves(self.hints(one, data, book))
            found["adjusted"] = list(np.array(found["loss"]) + moves_N)
        return found

    def hints(self, one: Supernet, data: ImageData, book: Book) -> list[tuple[Hint, list[float]]]:
        """What moves the losses of a supernet's members, for losses of deviation 1.

        And its scores of the bank's networks.
        """
        size, weights = one.space.input_size, self.recipe_of(one).hints
        own = [one.space.key(arch) for arch in self.truth.archs]
        members = reference(one.space)
        others = [one.space.key(arch) for arch in members]
        wanted = dict(zip([*own, *others], [*self.truth.archs, *members], strict=True))
        about = (size, data.in_chans, data.num_classes)
        found = []
        for name, of in hints_of(weights, *about, str(self.device)).items():
            column = name.lower()
            where = f"{HINTS[name]} of priors, {data.in_chans} channels, {size}"
            where += f", {data.num_classes} classes" if name == "size" else ""
            left = {key: arch for key, arch in wanted.items() if not book.has(where, column, key)}
            with phase(HINTS[name], len(wanted), "network", len(wanted) - len(left)) as line:
                for key, arch in left.items():
                    book.put(where, key, {column: of(arch)})
                    line.advance()
            hint = Hint.measured(of, weights[name], book.get(where, column, others), 1.0)
            found.append((hint, book.get(where, column, own)))
        return found

    def prior(self, book: Book) -> list[Scores]:
        """What several hints say together without a supernet: a rival of what they move."""
        one = self.supernets[0]
        if "adjusted" not in self.told or len(self.recipe_of(one).hints) < 2:
            return []
        moves_N = moves(self.hints(one, self.data_of(one), book))
        names = " and ".join(self.recipe_of(one).hints)
        return [Scores(f"{names}, no supernet", PRIOR, -moves_N[None])]

    def recipe_of(self, one: Supernet) -> SupernetRecipe:
        """The training of a supernet, and what its members' scores are."""
        names = ("calibrate_steps", "zen_weight", "size_weight")
        asked = {name: getattr(self.asked, name) for name in names}
        given = {name: value for name, value in asked.items() if value is not None}
        return one.recipe.supernet.model_copy(update=given)

    @property
    def told(self) -> list[str]:
        """The scores that are told of every supernet."""
        moved = all(self.recipe_of(one).hints for one in self.supernets)
        return [name for name in QUALITIES if moved or name != "adjusted"]

    @property
    def words(self) -> dict[str, str]:
        """The scores' names."""
        moved = self.recipe_of(self.supernets[0]).adjusted_words
        return {
            "top1": "supernet top-1",
            "loss": "supernet loss",
            "adjusted": f"supernet {moved}",
        }

    @property
    def headline(self) -> str:
        """The score that answers."""
        return self.asked.headline or ("adjusted" if "adjusted" in self.told else "loss")

    def proxies(self, book: Book) -> list[Scores]:
        """The zero-cost proxies of all networks, on training images of the first supernet."""
        one, asked = self.supernets[0], self.asked
        data, size = self.data_of(one), one.space.input_size
        chosen_B = epoch_order(len(data.train), asked.seed, 0)[: asked.proxy_images]
        pixels, labels = data.train.batch(chosen_B)
        x_BCHW = normalise(pixels.to(self.device), data.mean, data.std)
        batch = Batch(x_BCHW, labels.to(self.device))
        images = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
        of = f"{data.name}, batch {images}, {asked.proxy_seeds} seeds"
        keys = [one.space.key(arch) for arch in self.truth.archs]
        last = list(PROXIES)[-1]
        done = sum(book.has(of, last, key) for key in keys)
        with phase("zero-cost proxies", len(keys), "network", done) as line:
            for arch, key in zip(self.truth.archs, keys, strict=True):
                if not book.has(of, last, key):
                    seeds = range(asked.proxy_seeds)
                    book.put(of, key, score(arch, size, data.num_classes, batch, seeds))
                    line.advance()
        return [Scores(name, BASELINE, np.array([book.get(of, name, keys)])) for name in PROXIES]

    def scored(self) -> str:
        """What the scores are of, in a sentence."""
        counts = {self.asked.images or n_val for _, n_val in self._counts.values()}
        images = " or ".join(f"{count:,}" for count in sorted(counts))
        steps = {self.recipe_of(one).calibrate_steps for one in self.supernets} - {0}
        tuned = f", after {' or '.join(map(str, sorted(steps)))} steps of its own" if steps else ""
        return f"A member's score is of {images} validation images of its supernet{tuned}."

    def report(self, found: Findings, scores: Sequence[Scores], run: Run) -> None:
        """The tables on the console, the files in the folder and in MLflow."""
        notes = (self.scored(), *self.notes)
        folder, data = self.folder, {one.recipe.data.name for one in self.supernets}
        about = About(
            title=f"Does the supernet rank the {self.truth.title}?",
            command=command(),
            data=", ".join(sorted(data)),
            n_train=self._counts[self.supernets[0].name][0],
            seeds=tuple(sorted({one.recipe.seed for one in self.supernets})),
            commit=git_commit(),
            machine=machine(),
            date=datetime.now().astimezone(),
            notes=notes,
        )
        top = next(one for one in scores if one.name == found.headline)
        figure = report.scatter(found, top, SIGNS[self.headline] < 0)
        columns, lines = report.networks(found, scores)
        write_csv(folder / "rank.csv", report.CSV, report.lines(found))
        write_csv(folder / "networks.csv", columns, lines)
        write_bytes(folder / report.SCATTER, as_png(figure))
        write_text(folder / "rank.md", report.markdown(found, about))
        write_text(folder / "rank.html", report.page(found, about, as_svg(figure)))
        for name in ("rank.csv", "networks.csv", report.SCATTER, "rank.md", "rank.html"):
            run.artifact(folder / name)
        run.log(report.metrics(found), 0)
        run.describe(f"{report.answer(found)}\n\n```\n{report.plain(found)}\n```")
        print(f"\n{report.plain(found)}\n")
        for said in (*found.notes, *notes):
            print(said)
        print(f"\n{report.answer(found)}")


def moves(hints: Sequence[tuple[Hint, list[float]]]) -> NDArray[np.float64]:
    """What hints add to the losses of networks of these scores."""
    moved_HN = np.array([[hint.move(value) for value in values_N] for hint, values_N in hints])
    total_N: NDArray[np.float64] = moved_HN.sum(axis=0)
    return total_N


def trained(
    folder: RunFolder,
    space: SearchSpace,
    recipe: SearchRecipe,
    data: ImageData,
    device: torch.device,
) -> Backbone:
    """The supernet of a search's run, with its weights.

    Raises:
        UserError: they cannot be read, or are not of such a supernet.
    """
    model = supernet_of(space, data.in_chans, data.num_classes, recipe.supernet)
    weights, _ = load_weights(folder.weights)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{folder.weights} does not fit {folder.space_file} on {data.name}."
        ) from error
    return model.to(device)


def evenly(images: ImageSet, count: int | None, name: str) -> ImageSet:
    """So many of the images, evenly spread; all without a number.

    Raises:
        UserError: there are fewer.
    """
    if count is None or count == len(images):
        return images
    if count > len(images):
        raise UserError(
            f"--images {count}: {name} keeps {len(images)} images from its training to validate."
        )
    return images.subset(torch.arange(count) * len(images) // count)


def digest(path: Path) -> str:
    """A short hash of a file."""
    with told(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
