"""The switches of a supernet's training: each does what it says, and resumes to the bit."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from twins_nas.arch import ArchConfig
from twins_nas.config import find, load_space
from twins_nas.cost import cost
from twins_nas.data import ImageData, augment, batches, epoch_order, load, normalise
from twins_nas.errors import ConfigError, UserError
from twins_nas.evaluate import evaluate
from twins_nas.model.backbone import Backbone, initialise
from twins_nas.model.position import PEG
from twins_nas.model.separate import supernet_of
from twins_nas.recipes import SupernetRecipe, check_switches, load_recipe
from twins_nas.seeds import seed
from twins_nas.space import SearchSpace
from twins_nas.training.calibrate import Calibration
from twins_nas.training.gradients import PCGrad, SubnetsFirst
from twins_nas.training.loop import Progress, Trainer
from twins_nas.training.losses import CLIP, adaptive_loss
from twins_nas.training.optimizer import learning_rate, optimizer_of
from twins_nas.training.policy import BestUp, Fair, MacsBalanced, Opening, Sandwich
from twins_nas.tuning.objective import Payload, build_evaluator

SWITCHES: dict[str, dict[str, Any]] = {
    "macs_balanced": {"sampling": "macs_balanced"},
    "best_up": {"sampling": "best_up"},
    "fair": {"sampling": "fair"},
    "alpha": {"distill": "alpha"},
    "pcgrad": {"gradients": "pcgrad", "accumulate": 2},
    "subnets_first": {"gradients": "subnets_first"},
    "drop_path_for": {"drop_path_for": "largest"},
    "ema": {"ema": 0.9},
    "elastic_warmup": {"elastic_warmup": 0.6},
    "separate": {"separate": ("pe", "sr_ratio")},
    "switchable_norms": {"switchable_norms": True},
    "split": {"split": "stages.0.pe"},
    "zero_peg": {"zero_peg": True},
    "scaled_slices": {"scaled_slices": True},
    "deep_supervision": {"deep_supervision": 0.3},
    "largest": {"extremes": "largest", "random_subnets": 2},
    "no extremes": {"extremes": "none", "random_subnets": 3, "distill": "none"},
    "calibrate": {"calibrate_steps": 2},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "shared": {
        **SWITCHES["best_up"],
        **SWITCHES["alpha"],
        **SWITCHES["pcgrad"],
        **SWITCHES["drop_path_for"],
        **SWITCHES["ema"],
    },
    "separate": {
        **SWITCHES["fair"],
        **SWITCHES["subnets_first"],
        **SWITCHES["elastic_warmup"],
        **SWITCHES["separate"],
        **SWITCHES["switchable_norms"],
        **SWITCHES["split"],
        **SWITCHES["zero_peg"],
        **SWITCHES["scaled_slices"],
        **SWITCHES["deep_supervision"],
    },
}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """The shipped SVT space."""
    return load_space(find("space", "svt"))


@pytest.fixture(scope="module")
def families() -> SearchSpace:
    """The space in which mixers vary too."""
    return load_space(find("space", "families"))


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Few images: an epoch has two steps of 8."""
    whole = load("fashion-mnist-mini", root=None, input_size=32, val_images=2000)
    first = torch.arange(16)
    return replace(whole, train=whole.train.subset(first), val=whole.val.subset(first))


def recipe(**changes: Any) -> SupernetRecipe:
    """A training of four steps."""
    return SupernetRecipe(**{"epochs": 2, "batch_size": 8, "drop_path": 0.1, **changes})


def fresh(space: SearchSpace, asked: SupernetRecipe) -> Backbone:
    """A new supernet with the same weights each time."""
    model = supernet_of(space, 1, 10, asked)
    initialise(model, 0, zero_peg=asked.zero_peg)
    return model


def macs_of(arch: ArchConfig) -> int:
    """At 32 px."""
    return cost(arch, (32, 32), 1, 10).macs


def nothing(arch: ArchConfig) -> float:
    """A loss that no policy should ask for."""
    raise AssertionError(arch)


def plain_sandwich(
    space: SearchSpace, data: ImageData, asked: SupernetRecipe
) -> dict[str, torch.Tensor]:
    """The training as it was before there were switches, written down in one piece."""
    model = Backbone(space, 1, 10, asked.drop_path)
    initialise(model, 0)
    torch.manual_seed(5)
    optimizer, steps = optimizer_of(model, asked), 2 * asked.epochs
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, asked)
        rng = random.Random(f"7/{step}")
        archs = [space.extreme(+1, rng), space.extreme(-1, rng), space.sample(rng)]
        order = epoch_order(len(data.train), 7, step // 2)
        pixels, labels = list(batches(data.train, asked.batch_size, order))[step % 2]
        generator = torch.Generator().manual_seed(7 * 1_000_003 + step)
        pixels = augment(pixels, generator, pad=0, flip=True)
        teacher = None
        for arch in dict.fromkeys(archs):
            logits = model(normalise(pixels, data.mean, data.std), arch)
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                loss = 0.5 * F.cross_entropy(logits, teacher.softmax(1)) + (1 - 0.5) * loss
            loss.backward()
            teacher = logits.detach() if teacher is None else teacher
        torch.nn.utils.clip_grad_norm_(model.parameters(), asked.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.state_dict()


def test_the_default_is_the_plain_sandwich_to_the_bit(space: SearchSpace, data: ImageData) -> None:
    """No switch has changed what is trained without one; stochastic depth is on."""
    asked = recipe()
    model = Backbone(space, 1, 10, asked.drop_path)
    initialise(model, 0)
    torch.manual_seed(5)
    Trainer(model, data, asked, seed=7).run()
    expected = plain_sandwich(space, data, asked)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert Trainer(model, data, asked, seed=7).scored is model


def test_earlier_classifiers_are_trained_by_labels(space: SearchSpace, data: ImageData) -> None:
    """With their weight, in the one step; the loss that is told is the network's own."""
    asked = recipe(epochs=1, batch_size=16, drop_path=0, flip=False, deep_supervision=0.3)
    model = fresh(space, asked)
    expected = copy.deepcopy(model)
    trainer = Trainer(model, data, asked)
    ((_, told),) = trainer.run()
    pixels, labels = next(batches(data.train, 16, epoch_order(16, 0, 0)))
    images = normalise(pixels, data.mean, data.std)
    first, *others = trainer.policy.draw(0, nothing)
    teacher = expected(images, first).detach()
    total = torch.zeros(())
    for arch in (first, *others):
        *early, logits = expected.forward_all(images, arch)
        hard = F.cross_entropy(logits, labels)
        if arch is first:
            assert told["loss"] == pytest.approx(hard.item(), rel=1e-4)
        else:
            hard = 0.5 * hard + 0.5 * F.cross_entropy(logits, teacher.softmax(1))
        total = total + hard + 0.3 * sum(F.cross_entropy(other, labels) for other in early)
    total.backward()
    grads = [parameter.grad for parameter in expected.parameters() if parameter.grad is not None]
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    assert told["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    assert expected.early_heads[0].weight.grad.any()


def resumed_is_whole(space: SearchSpace, data: ImageData, folder: Path, changes: Any) -> None:
    """Stopped after half and resumed in new objects: same weights, same scored weights."""
    space = space.fixed({f"stages.{index}.depth": 1 for index in range(3)})
    asked = recipe(**changes)
    torch.manual_seed(5)
    model = fresh(space, asked)
    before = copy.deepcopy(model.state_dict())
    whole = Trainer(model, data, asked)
    whole.run()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())

    class Killed(BaseException):
        """Stands for the end of the process."""

    def stop(progress: Progress) -> None:
        first._save()
        raise Killed

    torch.manual_seed(5)
    first = Trainer(fresh(space, asked), data, asked, 0, folder / "checkpoint.pt", stop)
    with pytest.raises(Killed):
        first.run()
    torch.manual_seed(99)
    second = Trainer(fresh(space, asked), data, asked, checkpoint=folder / "checkpoint.pt")
    assert second.step == whole.steps // 2
    second.run()
    for one, other in ((whole.model, second.model), (whole.scored, second.scored)):
        theirs = other.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
    last, again = (dict(run.history[-1][1]) for run in (whole, second))
    del last["images_per_second"], again["images_per_second"]
    assert last == again


@pytest.mark.parametrize("name", TOGETHER)
def test_switches_together_resume_to_the_bit(
    name: str, space: SearchSpace, data: ImageData, tmp_path: Path
) -> None:
    """Real steps with many of them on."""
    resumed_is_whole(space, data, tmp_path, TOGETHER[name])


@pytest.mark.long
@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_resumes_to_the_bit(
    name: str, space: SearchSpace, data: ImageData, tmp_path: Path
) -> None:
    """Real steps with it alone."""
    resumed_is_whole(space, data, tmp_path, SWITCHES[name])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sampling: bestup", r"supernet.sampling: 'bestup' is not known; did you mean 'best_up'"),
        ("{sampling: best_up, random_subnets: 0}", "`random_subnets: 0` draws none"),
        ("{extremes: largest, random_subnets: 0}", "most weights learn nothing"),
        ("extremes: none", "no largest network in every step to learn from"),
        ("extremes: smallest", "'smallest' is not known"),
        ("drop_path_for: largest", "nothing to skip: `drop_path` is 0"),
        ("ema: 1", "1 is too large"),
        ("separate: [pe, pe]", "a field is given twice"),
        ("separate: [depth]", "'depth' is not known"),
        ("gradients: pcgard", "did you mean 'pcgrad'"),
        ("init_from: weights.onnx", "is no file of weights"),
        ("elastic_warmup: 1", "1 is too large"),
        ("calibrate_steps: -1", "-1 is too small"),
    ],
)
def test_what_makes_no_sense_is_told_at_load(line: str, said: str, tmp_path: Path) -> None:
    """With file, line and key."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"supernet: {line if line.startswith('{') else '{' + line + '}'}\n")
    with pytest.raises(ConfigError, match=said) as caught:
        load_recipe(path)
    assert "recipe.yaml:1: supernet" in str(caught.value)


def test_what_makes_no_sense_in_a_space_is_told(space: SearchSpace, tmp_path: Path) -> None:
    """Before any work."""
    weights = tmp_path / "weights.pth"
    weights.touch()
    point = SearchSpace.point(seed("twins_svt_micro"), (32, 32), "point")
    stages = ({**point.stages[0], "pe": (("cpe", "rpe"),)}, *point.stages[1:])
    narrow = SearchSpace("narrow", point.input_size, point.base, point.arch, stages)
    first = replace(point.base, stages=point.base.stages[:1])
    short = SearchSpace.point(first, (32, 32), "short")
    for of, changes, said in (
        (space, {"split": "stages.0.ep"}, "did you mean 'stages.0.pe'"),
        (space, {"separate": ("mixer",)}, "mixer has one value in space svt"),
        (space, {"init_from": "nowhere.pth"}, "nowhere.pth is not there"),
        (space, {"init_from": str(weights), "split": "stages.0.pe"}, "would begin without"),
        (narrow, {"split": "stages.0.pe", "separate": ("pe",)}, "split by stages.0.pe"),
        (narrow, {"sampling": "macs_balanced"}, "no ordered dimension varies in narrow"),
        (point, {"switchable_norms": True}, "has one embed_dim a stage"),
        (point, {"elastic_warmup": 0.1}, "no ordered dimension varies"),
        (short, {"deep_supervision": 0.3}, "space short has no earlier stages"),
    ):
        with pytest.raises(UserError, match=said):
            check_switches(recipe(**changes), of)
    for changes in SWITCHES.values():
        check_switches(recipe(**changes), space)


def test_balanced_macs_reach_the_ends(space: SearchSpace) -> None:
    """Every fifth of the range of MACs gets its share, where uniform choices leave the ends out."""
    low, high = (macs_of(space.extreme(sign)) for sign in (-1, +1))
    shares = {}
    for kind in (Sandwich, MacsBalanced):
        policy = kind(space, 1, 0, macs_of)
        drawn = [policy.member(0, random.Random(number), nothing) for number in range(150)]
        assert all(space.why_not(arch) is None for arch in drawn)
        places = Counter(int(5 * (macs_of(arch) - low) / (high - low + 1)) for arch in drawn)
        shares[kind] = [places[place] / len(drawn) for place in range(5)]
    assert min(shares[MacsBalanced]) > 0.1 > min(shares[Sandwich]), shares


def test_the_best_of_several_is_trained(space: SearchSpace) -> None:
    """The member with the least loss, of about the same MACs."""
    policy, asked = BestUp(space, 1, 0, macs_of), {}

    def loss_of(arch: ArchConfig) -> float:
        asked[arch] = -sum(stage.depth for stage in arch.stages) + len(asked) / 100
        return asked[arch]

    *_, arch = policy.draw(3, loss_of)
    assert 2 <= len(asked) <= 3 and asked[arch] == min(asked.values())


def bare(arch: ArchConfig) -> ArchConfig:
    """Without encodings, which are drawn for the extremes too."""
    return replace(arch, stages=tuple(replace(stage, pe="none") for stage in arch.stages))


def test_extremes_may_be_left_out(space: SearchSpace) -> None:
    """The random members stay as many; without the smallest the first is the largest."""
    both = Sandwich(space, 2, 0, macs_of)
    for policy in (Sandwich, MacsBalanced, BestUp, Fair):
        for signs in ((+1,), ()):
            drawn = policy(space, 2, 0, macs_of, signs).draw(3, lambda arch: 0.0)
            assert len(drawn) == 2 + len(signs)
            largest = [bare(arch) == bare(space.extreme(+1)) for arch in drawn]
            assert largest[0] is bool(signs) and not any(largest[1:])
    assert len(both.draw(3, nothing)) == 4


def test_fair_draws_have_equal_counts(space: SearchSpace) -> None:
    """After twelve draws each value of 2 or 4 was drawn equally often, in every role."""
    policy = Fair(space, 1, 0, macs_of)
    members = [policy.member(number, random.Random(0), nothing) for number in range(12)]
    largest = [policy.extreme(+1, step, random.Random(0)) for step in range(12)]
    for choice in space.choices:
        if choice.name.endswith(("pe", "embed_dim", "depth")):
            counts = Counter(space.value(arch, choice) for arch in members)
            assert set(counts.values()) == {12 // len(choice.values)}, choice.name
        counts = Counter(space.value(arch, choice) for arch in largest)
        if choice.field in ("embed_dim", "depth", "mlp_ratio"):
            assert set(counts) == {choice.extreme(+1)}
        elif not choice.ordered:
            assert set(counts.values()) == {12 // len(choice.values)}
    assert policy.draw(5, nothing) == policy.draw(5, nothing) != policy.draw(6, nothing)


def test_dimensions_open_one_after_another(space: SearchSpace) -> None:
    """Nothing, then windows and ratios, then depths, then all; always members of the space."""
    policy = Opening(space, 30, lambda part: Sandwich(part, 2, 0, macs_of))
    plain = Sandwich(space, 2, 0, macs_of)
    for step, opened in ((0, set()), (10, {"window_size", "sr_ratio"}), (29, {"depth"})):
        for arch in policy.draw(step, nothing):
            assert space.why_not(arch) is None
        smallest = policy.draw(step, nothing)[1]
        for choice in space.choices:
            if choice.ordered and choice.field in ("depth", "embed_dim", "window_size"):
                sign = -1 if choice.field in opened | ({"window_size"} if step else set()) else +1
                if choice.field != "window_size" or ".blocks.0." in choice.name:
                    assert space.value(smallest, choice) == choice.extreme(sign), (step, choice)
    assert policy.draw(30, nothing) == plain.draw(30, nothing)


def test_adaptive_loss_has_the_gradient_of_the_larger_divergence() -> None:
    """Of each image; exact where no ratio is clipped, and KL's where it is the larger."""
    torch.manual_seed(0)
    student, teacher = torch.randn(64, 10, requires_grad=True), torch.randn(64, 10)
    p = teacher.softmax(1)
    q = student.softmax(1)
    kl = (p * (p / q).log()).sum(1)
    minus = (q * ((q / p) - 1)).sum(1) / 2
    clipped = (q / p > CLIP).any(1)
    (ours,) = torch.autograd.grad(adaptive_loss(student, teacher), student)
    (exact,) = torch.autograd.grad(torch.maximum(kl, minus).mean(), student)
    chosen = minus > kl
    exactly = ~clipped
    assert torch.allclose(ours[exactly], exact[exactly], atol=1e-6)
    assert (chosen & exactly).any() and (~chosen & exactly).any() and clipped.any()
    bound = CLIP / len(student)
    sure = torch.tensor([[50.0, -50.0]], requires_grad=True)
    loss = adaptive_loss(sure.expand(64, 2), torch.tensor([[-50.0, 50.0]]).expand(64, 2))
    assert torch.isfinite(loss) and exact.abs().max() > 0
    assert ours[clipped].abs().max() <= bound


def gradients(kind: Any, given: list[list[list[float]]]) -> torch.Tensor:
    """What a join makes of the networks' gradients of two parameters of two numbers."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    join = kind(parameters, 0)
    for place, rows in enumerate(given):
        for parameter, row in zip(parameters, rows, strict=True):
            parameter.grad = torch.tensor(row, dtype=torch.float32) if row else None
        join.keep(place)
    join.join(0)
    return torch.cat([torch.zeros(2) if p.grad is None else p.grad for p in parameters])


@pytest.mark.parametrize("kind", [PCGrad, SubnetsFirst])
def test_gradients_without_conflict_add_up(kind: Any) -> None:
    """And a parameter that nobody used keeps none."""
    assert gradients(kind, [[[1, 0], []], [[1, 2], []]]).tolist() == [2, 2, 0, 0]


def test_conflicts_are_projected_away() -> None:
    """By the formulas of the papers, on two and on three networks."""
    one, two = torch.tensor([1.0, 0, 1, 1]), torch.tensor([-1.0, 1, -1, 0])
    product = one @ two
    assert product < 0
    expected = one - product / (two @ two) * two + two - product / (one @ one) * one
    given = [[[1.0, 0], [1, 1]], [[-1.0, 1], [-1, 0]]]
    assert torch.allclose(gradients(PCGrad, given), expected)
    by_parameter = [one[:2] + 1.5 * two[:2], one[2:] + 2 * two[2:]]
    assert torch.allclose(gradients(SubnetsFirst, given), torch.cat(by_parameter))
    left = gradients(SubnetsFirst, given) - (one + two)
    assert left.norm() > 0


def test_only_the_largest_drops_paths(space: SearchSpace, data: ImageData) -> None:
    """The others run whole; without the switch all drop."""
    for word, expected in (("largest", [True, False, False]), ("all", [True, True, True])):
        asked = recipe(drop_path_for=word, epochs=1)
        model, modes = fresh(space, asked), []
        model.stages[0].register_forward_pre_hook(
            lambda module, inputs, modes=modes: modes.append(module.training)
        )
        Trainer(model, data, asked)._one_step(iter([(data_batch(data))]))
        assert modes == expected


def data_batch(data: ImageData) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images, ready for the model."""
    pixels, labels = data.train.batch(torch.arange(8))
    return normalise(pixels, data.mean, data.std), labels


def test_pegs_begin_as_nothing(space: SearchSpace, data: ImageData) -> None:
    """Members with CPE compute what those without encoding do; trained ones differ."""
    base = space.extreme(+1)
    of = {
        pe: replace(base, stages=tuple(replace(stage, pe=pe) for stage in base.stages))
        for pe in ("cpe", "none")
    }
    images = torch.randn(4, 1, 32, 32)
    for asked, same in ((recipe(), False), (recipe(zero_peg=True), True)):
        model = fresh(space, asked).eval()
        with torch.no_grad():
            assert torch.equal(model(images, of["cpe"]), model(images, of["none"])) is same
        loud = fresh(space, recipe()).state_dict()
        pegs = {name for name, module in model.named_modules() if isinstance(module, PEG)}
        for name, value in model.state_dict().items():
            quiet = same and name.removesuffix(".weight") in pegs
            assert torch.equal(value, torch.zeros_like(value) if quiet else loud[name]), name
    Trainer(model, data, recipe(zero_peg=True, epochs=1, warmup=0), 0).run()
    assert any(model.get_parameter(f"{name}.weight").all() for name in pegs)


def test_averaged_weights_are_scored(space: SearchSpace, data: ImageData) -> None:
    """They are the moving average of the weights after each step, its decay low at first."""
    asked = recipe(ema=0.9)
    model = fresh(space, asked)
    trainer = Trainer(model, data, asked)
    name = "stages.0.blocks.0.mlp.fc1.weight"
    expected = None
    for number in range(4):
        trainer._one_step(iter([data_batch(data)]))
        now = model.get_parameter(name).detach()
        decay = min(0.9, (1 + number) / (10 + number))
        expected = now.clone() if expected is None else decay * expected + (1 - decay) * now
    assert trainer.scored is not model
    assert torch.allclose(trainer.scored.get_parameter(name), expected, atol=1e-6)
    assert not torch.equal(trainer.scored.get_parameter(name), model.get_parameter(name))


def test_calibration_tunes_a_copy(space: SearchSpace, data: ImageData) -> None:
    """Scores of the evaluators are the tuned member's, twice the same; the supernet stays."""
    asked = recipe(calibrate_steps=2, lr=0.02)
    model = fresh(space, asked).eval()
    before = copy.deepcopy(model.state_dict())
    tune = Calibration.of(data, asked, 0)
    assert tune is not None and Calibration.of(data, recipe(), 0) is None
    arch = space.extreme(-1)
    plain = evaluate(model, data.train, data.mean, data.std, arch)
    tuned = evaluate(tune(model, arch), data.train, data.mean, data.std, arch)
    assert tuned.loss < plain.loss
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    more = Calibration.of(data, recipe(calibrate_steps=40, lr=0.02), 0)
    assert more is not None and len(more.images) == len(data.train) < 40 * asked.batch_size
    longer = evaluate(more(model, arch), data.train, data.mean, data.std, arch)
    assert longer.loss < tuned.loss
    payload = Payload.of(model, data.train, data.mean, data.std, calibration=tune, recipe=asked)
    score = build_evaluator(replace(payload, threads=0))
    assert score(arch).loss == score(arch).loss == tuned.loss


@pytest.fixture(autouse=True)
def steady() -> Iterator[None]:
    """The generator of torch starts alike in every test."""
    torch.manual_seed(0)
    yield
