"""The training loop: fair draws, exact resume, whole files, and that it learns."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from twins_nas.arch import ArchConfig
from twins_nas.config import find, load_space
from twins_nas.data import ImageData, load
from twins_nas.errors import UserError
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone, build, initialise
from twins_nas.recipes import SupernetRecipe
from twins_nas.seeds import seed
from twins_nas.space import SearchSpace
from twins_nas.training.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from twins_nas.training.loop import Progress, Trainer
from twins_nas.training.losses import soft_loss
from twins_nas.training.optimizer import learning_rate, optimizer_of
from twins_nas.training.policy import Sandwich
from twins_nas.training.threads import ThreadChooser


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """The shipped SVT space."""
    return load_space(find("space", "svt"))


@pytest.fixture(scope="module")
def data() -> ImageData:
    """A few of the embedded images, so that an epoch has two steps."""
    whole = load("fashion-mnist-mini", root=None, input_size=32, val_images=2000)
    first = torch.arange(128)
    from dataclasses import replace

    return replace(whole, train=whole.train.subset(first), val=whole.val.subset(first))


def recipe(**changes: object) -> SupernetRecipe:
    """A training of a few steps."""
    return SupernetRecipe(**{"epochs": 3, "batch_size": 64, "drop_path": 0.1, **changes})


def sandwich(space: SearchSpace, random_subnets: int, seed: int, step: int) -> list[ArchConfig]:
    """What the default policy draws; it asks for no loss and no MACs."""
    return Sandwich(space, random_subnets, seed, lambda arch: 0).draw(step, lambda arch: 0.0)


def fresh(space: SearchSpace) -> Backbone:
    """A new supernet with the same weights each time."""
    model = Backbone(space, 1, 10, drop_path=0.1)
    initialise(model, 0)
    return model


@pytest.mark.parametrize("role", ["teacher", "smallest", "random"])
def test_unordered_choices_are_drawn_evenly_in_every_role(space: SearchSpace, role: str) -> None:
    """Each PE of each stage is as frequent as the others in the teacher.

    The smallest and the random members.
    """
    drawn: dict[str, Counter[str]] = {}
    for step in range(2000):
        archs = sandwich(space, 1, seed=0, step=step)
        if len(archs) < 3:
            continue
        arch = archs[["teacher", "smallest", "random"].index(role)]
        encoding = space.encode(arch)
        for choice in space.choices:
            if not choice.ordered:
                drawn.setdefault(choice.name, Counter())[encoding[choice.name]] += 1
    assert {name.split(".")[-1] for name in drawn} == {"pe"} and len(drawn) == len(space.stages)
    for name, counts in drawn.items():
        assert len(counts) == 4, name
        assert chisquare(list(counts.values())).pvalue > 1e-4, (name, counts)


def test_ordered_choices_of_the_sandwich_are_the_extremes(space: SearchSpace) -> None:
    """Teacher and smallest are extremes over the ordered dimensions.

    Whatever their positional encodings.
    """
    largest, smallest = space.encode(space.extreme(+1)), space.encode(space.extreme(-1))
    for step in range(20):
        teacher, least, *_ = sandwich(space, 2, seed=1, step=step)
        for choice in space.choices:
            if choice.ordered:
                assert space.encode(teacher)[choice.name] == largest[choice.name]
                assert space.encode(least)[choice.name] == smallest[choice.name]


def test_a_single_network_is_trained_once_a_step() -> None:
    """In a one-point space all roles are one network."""
    space = SearchSpace.point(seed("twins_svt_micro"), (32, 32))
    assert sandwich(space, 3, seed=0, step=0) == [seed("twins_svt_micro")]


def test_resumed_training_is_the_same_to_the_bit(
    space: SearchSpace, data: ImageData, tmp_path: Path
) -> None:
    """Stopped after some steps and resumed in new objects.

    Same weights, same curves, also with stochastic depth.
    """
    torch.manual_seed(5)
    whole = Trainer(fresh(space), data, recipe(accumulate=1))
    whole.run()

    class Killed(BaseException):
        """Stands for the end of the process."""

    path = tmp_path / "checkpoint.pt"

    def stop(progress: Progress) -> None:
        if progress.step == 4:
            first._save()
            raise Killed

    torch.manual_seed(5)
    first = Trainer(fresh(space), data, recipe(), checkpoint=path, on_progress=stop)
    with pytest.raises(Killed):
        first.run()
    torch.manual_seed(99)
    second = Trainer(fresh(space), data, recipe(), checkpoint=path)
    assert second.step == 4 < whole.steps == 6
    second.run()
    theirs = whole.model.state_dict()
    assert all(
        torch.equal(value, theirs[name]) for name, value in second.model.state_dict().items()
    )
    timeless = [
        [
            (step, {name: value for name, value in row.items() if name != "images_per_second"})
            for step, row in run.history
        ]
        for run in (whole, second)
    ]
    assert timeless[0] == timeless[1]


def test_accumulation_gives_the_gradient_of_the_larger_batch(data: ImageData) -> None:
    """Two minibatches of 32 with accumulation step as one of 64 (no augmentation.

    So that pixels agree).
    """
    arch = seed("twins_svt_micro")
    ends = []
    for size, accumulate in ((64, 1), (32, 2)):
        model = build(arch, (32, 32), 1, 10)
        initialise(model, 0)
        plain = recipe(
            epochs=1,
            batch_size=size,
            accumulate=accumulate,
            flip=False,
            crop_padding=0,
            drop_path=0.0,
        )
        Trainer(model, data, plain).run()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    start = build(arch, (32, 32), 1, 10)
    initialise(start, 0)
    moved = (
        ends[0] - torch.cat([parameter.detach().flatten() for parameter in start.parameters()])
    ).norm()
    assert (ends[0] - ends[1]).norm() < 0.05 * moved


def test_it_learns(data: ImageData) -> None:
    """Forty steps on 128 images fit them.

    Far above the 10 % of guessing, teacher and smallest both.
    """
    space = load_space(find("space", "svt"))
    model = fresh(space)
    Trainer(
        model, data, recipe(epochs=20, drop_path=0.0, lr=3e-3, random_subnets=0, distill="none")
    ).run()
    for sign in (+1, -1):
        score = evaluate(model, data.train, data.mean, data.std, space.extreme(sign))
        assert score.top1 > 40, (sign, score)


def test_a_loss_that_is_no_number_stops_with_a_sentence(data: ImageData) -> None:
    """Divergence is said, with what to change."""
    model = build(seed("twins_svt_micro"), (32, 32), 1, 10)
    torch.nn.init.constant_(model.head.weight, torch.nan)
    with pytest.raises(UserError, match=r"no number at step \d+; lower supernet.lr"):
        Trainer(model, data, recipe()).run()


def test_learning_rate_warms_up_and_falls() -> None:
    """Linear to the peak, then down to 1 % of it."""
    plain = recipe(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, plain) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0 and rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert 0.009 < rates[-1] < 0.02


def test_no_decay_of_norms_biases_and_positions(space: SearchSpace) -> None:
    """As in the papers' code: 1-D parameters, position tables and PEGs are free of weight decay."""
    model = fresh(space)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = optimizer_of(model, recipe(weight_decay=0.05)).param_groups
    assert decayed["weight_decay"] == 0.05 and free["weight_decay"] == 0
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert not {
        name
        for name in decayed_names
        if "norm" in name or "bias" in name or "table" in name or "cpe" in name
    }
    assert any("qkv.weight" in name for name in decayed_names) and any(
        "sr" in name for name in decayed_names
    )


def test_soft_loss_is_kl_up_to_the_teachers_entropy() -> None:
    """Its gradient is that of the KL divergence, and the teacher gets none."""
    student, teacher = (
        torch.randn(4, 10, requires_grad=True),
        torch.randn(4, 10, requires_grad=True),
    )
    (ours,) = torch.autograd.grad(soft_loss(student, teacher), student)
    kl = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.softmax(1).detach(), reduction="batchmean"
    )
    (expected,) = torch.autograd.grad(kl, student)
    assert torch.allclose(ours, expected, atol=1e-6)
    soft_loss(student, teacher).backward()
    assert teacher.grad is None


def test_checkpoint_of_another_training_is_refused(
    space: SearchSpace, data: ImageData, tmp_path: Path
) -> None:
    """Another space, or another recipe: a sentence that names the file."""
    path = tmp_path / "checkpoint.pt"
    Trainer(fresh(space), data, recipe(epochs=1), checkpoint=path).run()
    other = load_space(find("space", "pcpvt"))
    for model, changed in (
        (Backbone(other, 1, 10), recipe(epochs=1)),
        (fresh(space), recipe(epochs=1, lr=1e-4)),
    ):
        with pytest.raises(UserError, match=r"checkpoint\.pt belongs to another training"):
            Trainer(model, data, changed, checkpoint=path)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_damaged_checkpoint_is_a_sentence(tmp_path: Path, damage: bytes | None) -> None:
    """Empty, foreign or cut short."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"identity": "x", "tensor": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:700] if damage is None else damage)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, "x")


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    """Only tensors and plain values are read."""
    path = tmp_path / "checkpoint.pt"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

    torch.save({"identity": Evil()}, path)
    with pytest.raises(UserError):
        load_checkpoint(path, "x")
    assert not (tmp_path / "executed").exists()


def test_weights_round_trip(space: SearchSpace, tmp_path: Path) -> None:
    """Safetensors with metadata; a damaged file is a sentence."""
    model = fresh(space)
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, {"space": space.fingerprint})
    weights, metadata = load_weights(path)
    assert metadata == {"space": space.fingerprint}
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_weights(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB; skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(small_disk: Path) -> None:
    """A sentence, the old file whole, no rest of the new one."""
    path = small_disk / "checkpoint.pt"
    save_checkpoint(path, {"identity": "x", "tensor": torch.zeros(1000)})
    with pytest.raises(UserError, match="disk is full"):
        save_checkpoint(path, {"identity": "x", "tensor": torch.zeros(1_000_000)})
    with pytest.raises(UserError, match="disk is full"):
        save_weights(small_disk / "w.safetensors", torch.nn.Linear(1000, 1000), {})
    assert load_checkpoint(path, "x")["tensor"].shape == (1000,)
    assert [file.name for file in small_disk.iterdir()] == ["checkpoint.pt"]


def test_ctrl_c_ends_the_step_and_writes_a_checkpoint(
    space: SearchSpace, data: ImageData, tmp_path: Path
) -> None:
    """KeyboardInterrupt comes after the state is on the disk; the handler is put back."""
    path = tmp_path / "checkpoint.pt"
    before = signal.getsignal(signal.SIGINT)
    trainer = Trainer(fresh(space), data, recipe(), checkpoint=path)
    trainer.on_progress = lambda progress: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is before
    resumed = Trainer(fresh(space), data, recipe(), checkpoint=path)
    assert resumed.step == trainer.step > 0


def test_core_trains_without_ray_mlflow_optuna(repo: Path) -> None:
    """Stand-alone training in a process where the edges cannot be imported."""
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "mlflow", "optuna"}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from dataclasses import replace
import torch
from twins_nas.data import load
from twins_nas.model.backbone import build, initialise
from twins_nas.recipes import SupernetRecipe
from twins_nas.seeds import seed
from twins_nas.training.loop import Trainer
data = load("fashion-mnist-mini", root=None, input_size=32, val_images=2000)
few = torch.arange(64)
data = replace(data, train=data.train.subset(few), val=data.val.subset(few))
model = build(seed("twins_pcpvt_micro"), (32, 32), 1, 10)
initialise(model, 0)
print(len(Trainer(model, data, SupernetRecipe(epochs=1, batch_size=32)).run()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1


def test_random_members_differ_from_step_to_step(space: SearchSpace) -> None:
    """The stream depends on seed and step alone."""
    first = [sandwich(space, 2, 0, step) for step in range(5)]
    assert first == [sandwich(space, 2, 0, step) for step in range(5)]
    assert first != [sandwich(space, 2, 1, step) for step in range(5)]
    assert len({arch for step in first for arch in step[2:]}) == 10
    assert space.sample(random.Random(0)) != space.sample(random.Random(1))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for torch; one again afterwards."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(("with_two", "with_one", "chosen"), [(1.0, 2.0, 2), (2.0, 1.0, 1)])
def test_the_faster_number_of_threads_is_chosen(
    two_threads: None, with_two: float, with_one: float, chosen: int
) -> None:
    """By the median of the first steps, an outlier apart."""
    chooser = ThreadChooser()
    for seconds in (99.0, with_two, with_two, with_two, 99.0, with_one, with_one, with_one):
        chooser.took(seconds)
    assert torch.get_num_threads() == chosen


def test_company_ends_the_second_thread(two_threads: None) -> None:
    """Four slow steps in a row, not three."""
    chooser = ThreadChooser()
    for seconds in [1.0] * 4 + [2.0] * 4 + [9.0] * 3 + [1.0] + [9.0] * 3:
        chooser.took(seconds)
    assert torch.get_num_threads() == 2
    chooser.took(9.0)
    assert torch.get_num_threads() == 1


def test_a_fixed_number_of_threads_is_left_alone(two_threads: None) -> None:
    """Not enabled: a GPU's training."""
    chooser = ThreadChooser(enabled=False)
    for seconds in [1.0] * 4 + [0.1] * 9:
        chooser.took(seconds)
    assert torch.get_num_threads() == 2
