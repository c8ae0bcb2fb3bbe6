"""`python -m twins_nas.profile`: the published table, one network, a space, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from twins_nas import profile
from twins_nas.config import dump_arch, load_space, shipped_files
from twins_nas.cost import cost
from twins_nas.errors import UserError
from twins_nas.published import PUBLISHED, agrees
from twins_nas.seeds import SEEDS, seed


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["profile", *words])
    return profile.main()


@pytest.mark.parametrize(
    ("value", "printed", "same"),
    [
        (60_989_672, "60.9", True),
        (60_989_672, "61.0", True),
        (60_989_672, "61", True),
        (60_989_672, "60.8", False),
        (99_271_400, "99.2", True),
        (28_288_354, "29", False),
        (24_500_000, "25", True),
    ],
)
def test_figures_agree_rounded_or_truncated(value: int, printed: str, same: bool) -> None:
    """To the digits that are printed."""
    assert agrees(value, printed, 10**6) == same


def test_no_published_figure_differs_unexpectedly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 21 networks; three rows of CPVT are known to have another PEG."""
    assert set(PUBLISHED) < set(SEEDS)
    assert run(monkeypatch, "--seeds", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(SEEDS)
    known = [row["name"] for row in rows if row["known"]]
    assert known == ["cpvt_small_5peg", "cpvt_base_5peg", "cpvt_small_gap"]
    assert all(bool(row["differs"]) == bool(row["known"]) for row in rows)
    row = next(row for row in rows if row["name"] == "twins_svt_small")
    assert row == {
        "name": "twins_svt_small",
        "params": 24_060_776,
        "macs": 2_927_353_344,
        "macs_no_attention": 2_809_339_392,
        "published_params_m": 24.0,
        "published_macs_g": 2.9,
        "published_macs_no_attention_g": 2.8,
        "published_top1": 81.7,
        "differs": [],
        "known": "",
    }
    assert run(monkeypatch, "--seeds") == 0
    told = capsys.readouterr().out
    assert "21 compared with their papers, 0 differ unexpectedly." in told
    assert told.count("known deviation") == 3


def test_a_figure_that_differs_is_flagged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its row, in the sum, and by the exit code."""
    monkeypatch.setitem(SEEDS, "pvt_tiny", lambda: seed("pvt_small"))
    assert run(monkeypatch, "--seeds") == 1
    told = capsys.readouterr().out
    assert "params and macs DIFFERS" in told and "1 differ unexpectedly" in told


def test_other_sizes_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The papers' figures are of 224 px and 1,000 classes."""
    assert run(monkeypatch, "--seeds", "--input-size", "256", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["published_macs_g"] is None for row in rows)
    assert rows[0]["macs"] == cost(seed("pvt_tiny"), (256, 256)).macs


@pytest.mark.parametrize("name", ["swin_micro", "file"])
def test_a_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name or by file, at its own input size or another."""
    arch, target = seed("swin_micro"), name
    if name == "file":
        target = str(tmp_path / "winner.yaml")
        Path(target).write_text(dump_arch(arch, (32, 32)), encoding="utf-8")
    assert run(monkeypatch, target, "--classes", "10", "--json") == 0
    assert json.loads(capsys.readouterr().out)["macs"] == cost(arch, (32, 32), 3, 10).macs
    assert run(monkeypatch, target, "--input-size", "32", "48") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "at 32x48" in lines[0] and "2x3 tokens" in lines[4]


@pytest.mark.parametrize("name", list(shipped_files("space")))
def test_a_space(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its size, and the range of its members."""
    space = load_space(shipped_files("space")[name])
    assert run(monkeypatch, name, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["size"] == space.size()
    assert row["smallest"]["macs"] < row["base"]["macs"] <= row["largest"]["macs"]
    assert run(monkeypatch, name) == 0
    assert f"{space.size():,} different networks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Give --seeds, or one name"),
        (["svt", "--seeds"], "Give --seeds, or one name"),
        (["swin_tinny"], "swin_tinny: no such file, network or space; did you mean 'swin_tiny'"),
        (["swin_micro", "--input-size", "1"], "swin_micro cannot be built at 1x1: patch_size: "),
        (["svt", "--input-size", "8"], "svt cannot be built at 8x8: stages.0.sr_ratio: 8 is over"),
        (["svt", "--input-size", "8", "8", "8"], "--input-size takes one side or two"),
        (["svt", "--classes", "0"], "--classes must be at least 1"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the nearest name, or the field."""
    with pytest.raises(UserError) as error:
        run(monkeypatch, *words)
    assert str(error.value).startswith(said)


def test_the_command(repo: Path) -> None:
    """As it is typed."""
    command = [sys.executable, "-m", "twins_nas.profile", "pvt_tiny"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0 and "13,229,288 params" in done.stdout
