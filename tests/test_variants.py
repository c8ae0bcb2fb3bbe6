"""Recipes of ablations: what they expand to, and what is wrong with them, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from twins_nas.ablate import Plan, load_plan
from twins_nas.ablation.exploring import is_exploration
from twins_nas.ablation.header import with_result
from twins_nas.arch import key
from twins_nas.config import shipped_files
from twins_nas.cost import cost
from twins_nas.data import load
from twins_nas.errors import ConfigError
from twins_nas.recipes import IMAGES, SupernetRecipe
from twins_nas.seeds import seed
from twins_nas.yaml_nodes import read

HEAD = "question: q\nbase: twins_svt_micro\n"
COMPARE = "compare: {baseline: cpe}\n"
ABLATIONS = sorted(
    name for name, path in shipped_files("experiments").items() if not is_exploration(read(path))
)


def plan(folder: Path, text: str) -> Plan:
    """The plan of a recipe's text."""
    file = folder / "recipe.yaml"
    file.write_text(text)
    return load_plan(file)


def faults(folder: Path, text: str) -> str:
    """What is said of a recipe's text."""
    with pytest.raises(ConfigError) as caught:
        plan(folder, text)
    return str(caught.value)


@pytest.mark.parametrize("name", ABLATIONS)
def test_shipped_recipes_expand(name: str) -> None:
    """Each is checked whole; its header has the four lines; matched MACs are within the bound."""
    path = shipped_files("experiments")[name]
    found = load_plan(path)
    words = [line.split(":")[0] for line in path.read_text().splitlines() if line[:3] != "#  "]
    assert words[:4] == ["# Question", "# Command", "# Measured cost", "# Result"]
    assert f"experiments/{name}.yaml" in path.read_text().splitlines()[1] or any(
        f"experiments/{name}.yaml" in line for line in path.read_text().splitlines()[:4]
    )
    match = found.recipe.match
    if match is not None:
        base = {v.group: v.macs for v in found.variants if v.name == found.recipe.compare.baseline}
        for variant in found.variants:
            assert abs(variant.macs / base[variant.group] - 1) <= match.within / 100 <= 0.02


@pytest.mark.parametrize("name", ABLATIONS)
def test_shipped_variants_can_be_built(name: str) -> None:
    """Each network is built, gives logits, and has the parameters that its cost says."""
    import torch

    from twins_nas.model.backbone import build, initialise

    found = load_plan(shipped_files("experiments")[name])
    size = (found.recipe.input_size,) * 2
    for variant in found.variants:
        model = build(variant.arch, size, *IMAGES[found.recipe.data.name])
        initialise(model, 0, by_name=True)
        assert sum(one.numel() for one in model.parameters()) == variant.params
        with torch.inference_mode():
            assert torch.isfinite(model(torch.zeros(2, model.in_chans, *size))).all()


def test_images_of_data_sets_are_as_said() -> None:
    """Channels and classes, named where torch is not imported."""
    data = load("fashion-mnist-mini", root=None, input_size=32, val_images=2000)
    assert IMAGES["fashion-mnist-mini"] == (data.in_chans, data.num_classes)


def test_all_ways_to_write_a_change_agree(tmp_path: Path) -> None:
    """One value for all stages, a list of stages, dotted names, and stages as in a space."""
    found = plan(
        tmp_path,
        HEAD
        + """variants:
  cpe: {}
  one: {pe: [none, cpe, cpe, cpe]}
  two: {stages.0.pe: none, training.lr: 1e-3}
  three: {stages: [{pe: none}, {}, {}, {}], training: {lr: 3e-3}}
  four: {stages: {0: {pe: none}}, training: {epochs: 1}}
  five: {base: swin_micro, patch_size: 4}
  six: {mixer: G, window_size: {blocks: [2]}, depth: 1}
"""
        + COMPARE,
    )
    by_name = {variant.name: variant for variant in found.variants}
    archs = [by_name[name].arch for name in ("one", "two", "three", "four")]
    assert len(set(archs)) == 1 and [stage.pe for stage in archs[0].stages][:2] == ["none", "cpe"]
    assert (by_name["two"].training.lr, by_name["three"].training.lr) == (1e-3, 3e-3)
    assert by_name["four"].training.epochs == 1 and by_name["cpe"].training.epochs != 1
    assert by_name["cpe"].arch == seed("twins_svt_micro")
    assert by_name["five"].arch.patch_size == 4 and by_name["five"].arch.downsample == "merge"
    assert {stage.letters for stage in by_name["six"].arch.stages} == {"G"}
    assert by_name["cpe"].macs == cost(seed("twins_svt_micro"), (32, 32), 1, 10).macs


def test_a_grid_is_all_combinations_of_each_base(tmp_path: Path) -> None:
    """Names say the values; groups say the base."""
    found = plan(
        tmp_path,
        """question: q
base: [twins_svt_micro, swin_micro]
vary:
  pe: [cpe, none]
  stages.2.depth: [4, 2]
  training.lr: [2.0e-3]
compare: {baseline: cpe depth=4 lr=0.002}
""",
    )
    assert [variant.label for variant in found.variants][:4] == [
        "twins_svt_micro: cpe depth=4 lr=0.002",
        "twins_svt_micro: cpe depth=2 lr=0.002",
        "twins_svt_micro: none depth=4 lr=0.002",
        "twins_svt_micro: none depth=2 lr=0.002",
    ]
    assert {variant.group for variant in found.variants} == {"twins_svt_micro", "swin_micro"}
    assert len({key(variant.arch, (32, 32)) for variant in found.variants}) == 8


@pytest.mark.parametrize("dimension", ["embed_dim", "mlp_ratio", "depth"])
def test_macs_are_matched(dimension: str, tmp_path: Path) -> None:
    """Each dimension, to within two percent; what is equal already stays as it is."""
    change = "{mlp_ratio: 3}" if dimension == "embed_dim" else "{embed_dim: [16, 32, 48, 96]}"
    if dimension == "depth":
        change = "{embed_dim: [8, 16, 32, 64]}"
    within = ", within: 12" if dimension == "depth" else ""
    text = f"variants:\n  cpe: {{}}\n  other: {change}\nmatch: {{macs: {dimension}{within}}}\n"
    base, other = plan(tmp_path, HEAD + text + COMPARE).variants
    assert base.arch == seed("twins_svt_micro")
    assert abs(other.macs / base.macs - 1) <= (0.12 if within else 0.02)
    changed = [getattr(stage, dimension) for stage in other.arch.stages]
    assert changed != [getattr(stage, dimension) for stage in base.arch.stages]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HEAD + "variants: {cpe: {}, none: {pe: nine}}\n" + COMPARE,
            ":3: variants.none.pe: 'nine'",
        ),
        (HEAD + "variants: {cpe: {}, x: {pee: none}}\n" + COMPARE, "variants.x.pee: 'pee' is not"),
        (HEAD + "variants: {cpe: {}, x: {pee: none}}\n" + COMPARE, "did you mean 'pe'?"),
        (HEAD + "variants: {cpe: {}, x: {training.lr: -1}}\n" + COMPARE, "-1 is too small"),
        (HEAD + "variants: {cpe: {}, x: {training.eposh: 1}}\n" + COMPARE, "did you mean 'epochs'"),
        (HEAD + "variants: {cpe: {}, x: {stages.7.pe: none}}\n" + COMPARE, "there are 4 stages"),
        (HEAD + "variants: {cpe: {}, x: {pe: [cpe, none]}}\n" + COMPARE, "2 values for the 4"),
        (HEAD + "variants: {cpe: {}, x: {pe: cpe}}\n" + COMPARE, "are the same network"),
        (HEAD + "variants: {cpe: {}, x: {window_size: 2}}\n" + COMPARE, "are the same network"),
        (HEAD + "variants: {cpe: {}}\n" + COMPARE, "nothing to compare"),
        (HEAD + "variants: {cpf: {}, x: {pe: none}}\n" + COMPARE, "did you mean 'cpf'?"),
        (HEAD + "variants: {cpe: 3, x: {pe: none}}\n" + COMPARE, "3 is not a mapping"),
        (HEAD + "vary: {pe: []}\n" + COMPARE, "the list is empty"),
        (HEAD + COMPARE, "give vary (all combinations) or variants"),
        (HEAD + "vary: {pe: [cpe, none]}\nseeds: 1\n" + COMPARE, "seeds: 1 seed shows no spread"),
        (HEAD + "vary: {pe: [cpe, none, ape]}\nseeds: 2\n" + COMPARE, "too few for a verdict"),
        (HEAD + "vary: {pe: [cpe, none]}\nseeds: atuo\n" + COMPARE, "says no seeds"),
        (HEAD + "vary: {pe: [cpe, none]}\nseeds: [1, 1]\n" + COMPARE, "1 is given twice"),
        (HEAD + "vary: {pe: [cpe, none]}\nmatch: {macs: window}\n" + COMPARE, "match.macs"),
        (HEAD + "vary: {pe: [cpe, none]}\nresources: {gpu: 1.5}\n" + COMPARE, "resources.gpu"),
        (HEAD + "vary: {pe: [cpe, none]}\ncompare: {baseline: cpe, margin: 0}\n", "too small"),
        ("question: q\nvary: {pe: [cpe, none]}\n" + COMPARE, "base: is missing"),
        ("question: q\nbase: twins\nvary: {pe: [cpe, none]}\n" + COMPARE, "'twins' is not known"),
        ("question: q\nbase: 3\nvary: {pe: [cpe, none]}\n" + COMPARE, "neither a network's name"),
        (
            HEAD + "vary: {pe: [cpe, none]}\nseeds: auto\n"
            "compare: {baseline: cpe, metric: test_top1}\n",
            "read once, at the end",
        ),
        (
            HEAD + "variants: {cpe: {}, x: {mlp_ratio: 3}}\nmatch: {macs: depth, within: 0.01}\n"
            "compare: {baseline: cpe}\n",
            "x: its MACs cannot be matched by depth",
        ),
    ],
)
def test_faults_are_told_with_their_place(text: str, said: str, tmp_path: Path) -> None:
    """Line, key, and the nearest legal word."""
    found = faults(tmp_path, text)
    assert said in found and "recipe.yaml:" in found


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Those of several variants in one answer."""
    text = "variants:\n  cpe: {pe: cpx}\n  x: {training: {lr: -1, epochs: 0}}\n  y: {mixr: G}\n"
    found = faults(tmp_path, HEAD + text + COMPARE)
    assert [line.split(" ")[0].rsplit(":", 2)[1] for line in found.splitlines()] == list("4556")


def test_a_supernets_keys_are_no_options_of_a_training(tmp_path: Path) -> None:
    """`distill` belongs to a search alone, and a search still has it."""
    text = "vary: {pe: [cpe, none]}\ntraining: {distill: kl}\n"
    assert "training.distill: unknown key" in faults(tmp_path, HEAD + text + COMPARE)
    assert SupernetRecipe(distill="none").epochs == SupernetRecipe().epochs


def test_cost_and_result_go_into_the_comment() -> None:
    """The other lines stay, also those that go on; a second writing replaces the first."""
    text = (
        "# Question: a\n#   b?\n# Command: c\n# Measured cost: none\n# Result: none\nquestion: x\n"
    )
    once = with_result(text, "4 min", "better " * 30)
    assert once.startswith(
        "# Question: a\n#   b?\n# Command: c\n# Measured cost: 4 min\n# Result: "
    )
    assert once.endswith("\nquestion: x\n") and max(map(len, once.splitlines())) <= 100
    assert with_result(once, "4 min", "better " * 30) == once
    assert with_result("question: x\n", "1", "2").startswith("# Measured cost: 1\n# Result: 2\n")
