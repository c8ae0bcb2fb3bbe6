"""The report's parts, over networks of a real space with their real cost."""

from __future__ import annotations

import csv
import io
import math
import random
import re
import resource
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from twins_nas.arch import ArchConfig
from twins_nas.cost import cost
from twins_nas.errors import UserError
from twins_nas.report.files import (
    FRONT_COLUMNS,
    SCORED_COLUMNS,
    arch_files,
    write_archs,
    write_front_csv,
    write_scored_csv,
)
from twins_nas.report.page import front_page, write_front_page
from twins_nas.report.plots import lowest_shown, name_places, write_front_png
from twins_nas.report.rows import (
    About,
    FrontRow,
    arch_params,
    interval,
    macs_text,
    on_front,
    params_text,
    row_metrics,
    staircase,
    summary,
    val_front,
)
from twins_nas.report.table import HEADERS, by_macs, cells, plain_table, print_front
from twins_nas.seeds import seed
from twins_nas.space import SearchSpace
from twins_nas.stats import wilson
from twins_nas.tuning.results import Scored

N_VAL, N_TEST = 1500, 2000


def micro_space() -> SearchSpace:
    """A space around the micro form of Twins-SVT."""
    point = SearchSpace.point(seed("twins_svt_micro"), (32, 32), "micro")
    stages = []
    for stage in point.stages:
        dim, depth = stage["embed_dim"][0][0], stage["depth"][0][0]
        changed = {"embed_dim": ((dim // 2, dim),), "depth": (tuple(range(1, depth + 1)),)}
        changed["mlp_ratio"] = ((2.0, 4.0, 6.0),) * depth
        stages.append({**stage, **changed, "pe": (("none", "ape", "cpe", "rpe"),)})
    return replace(point, stages=tuple(stages))


def score(space: SearchSpace, arch: ArchConfig, n: int, rng: random.Random) -> float:
    """A made-up accuracy that rises with cost and depends on the encodings; `k / n` in percent."""
    macs = cost(arch, space.input_size, num_classes=10).macs
    good = mean("cpe" in stage.pe for stage in arch.stages)
    share = 0.915 - 0.12 * math.exp(-macs / 4e6) + 0.02 * good + rng.gauss(0, 0.008)
    return 100 * round(share * n) / n


def make_scored(space: SearchSpace, count: int, seeds: Sequence[int]) -> list[Scored]:
    """Random members and the named ones, scored by several searches."""
    named = {"base": space.base, "smallest": space.extreme(-1), "largest": space.extreme(+1)}
    found = []
    for search_seed in seeds:
        rng = random.Random(search_seed)
        drawn = [("", space.sample(rng)) for _ in range(count)]
        for number, (name, arch) in enumerate([*named.items(), *drawn]):
            top1 = score(space, arch, N_VAL, random.Random(str(arch)))
            size = cost(arch, space.input_size, num_classes=10)
            found.append(
                Scored(
                    number,
                    search_seed,
                    name,
                    arch,
                    space.key(arch),
                    size.macs,
                    size.params,
                    top1,
                    0.3,
                    0.3,
                    N_VAL,
                    0.4,
                    bool(name) and search_seed > seeds[0],
                    True,
                )
            )
    return found


def make_rows(space: SearchSpace, scored: Sequence[Scored]) -> list[FrontRow]:
    """The front of all searches, tested, with the named networks beside it."""
    unique = {row.arch: row for row in reversed(scored)}
    chosen = list(unique.values())
    on = on_front([(row.macs, row.top1) for row in chosen])
    chosen = [row for row, is_on in zip(chosen, on, strict=True) if is_on or row.name]
    rng = random.Random(0)
    test = [score(space, row.arch, N_TEST, rng) for row in chosen]
    held = on_front([(row.macs, top1) for row, top1 in zip(chosen, test, strict=True)])
    return [
        FrontRow(
            arch=row.arch,
            macs=row.macs,
            params=row.params,
            val_top1=row.top1,
            n_val=N_VAL,
            test_top1=test_top1,
            n_test=N_TEST,
            name=row.name,
            seeds=tuple(sorted({one.seed for one in scored if one.arch == row.arch})),
            on_test_front=is_held,
        )
        for row, test_top1, is_held in zip(chosen, test, held, strict=True)
    ]


def make_about() -> About:
    """What a search tells of itself."""
    return About(
        title="Front of space micro <32 px>",
        command="python -m twins_nas.search --space space/svt.yaml",
        data="fashion-mnist-mini",
        n_train=10_500,
        seeds=(0, 1),
        commit="0123abc",
        machine="Linux x86_64, 2 cores",
        date=datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        notes=("accuracies are made up & random",),
    )


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """The micro space."""
    return micro_space()


@pytest.fixture(scope="module")
def scored(space: SearchSpace) -> list[Scored]:
    """Two searches, of which one score is not finite."""
    found = make_scored(space, 60, (0, 1))
    return [*found, replace(found[-1], number=99, top1=math.nan, loss=math.inf)]


@pytest.fixture(scope="module")
def rows(space: SearchSpace, scored: list[Scored]) -> list[FrontRow]:
    """The front's rows."""
    return make_rows(space, scored[:-1])


def read_csv(path: Path) -> list[dict[str, str]]:
    """A CSV file's lines."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fronts_by_hand() -> None:
    """Cheaper and better stay, equal points do not beat each other, a staircase only rises."""
    points = [(1.0, 50.0), (2.0, 50.0), (2.0, 60.0), (3.0, 55.0), (1.0, 50.0), (4.0, 61.0)]
    assert on_front(points) == [True, False, True, False, True, True]
    assert staircase(points) == [(1.0, 50.0), (2.0, 60.0), (4.0, 61.0)]


def test_the_two_fronts_agree(scored: list[Scored]) -> None:
    """The quick staircase holds exactly the points that nothing beats."""
    points = [(float(row.macs), row.top1) for row in scored if math.isfinite(row.top1)]
    kept = {point for point, on in zip(points, on_front(points), strict=True) if on}
    assert set(staircase(points)) == kept


def test_intervals_are_wilsons() -> None:
    """From percent and n to counts and back."""
    assert interval(91.2, 2000) == wilson(1824, 2000)
    assert interval(100.0, 10)[1] == 100.0


def test_words_for_sizes() -> None:
    """Units change where rounding reaches them."""
    assert [macs_text(x) for x in (950, 940e3, 999.96e3, 12.34e6, 2.934e9)] == [
        "950",
        "940 k",
        "1.0 M",
        "12.3 M",
        "2.93 G",
    ]
    assert [params_text(x) for x in (512_300, 24.06e6)] == ["512 k", "24.06 M"]


def test_the_summary_counts_what_holds_on_test(rows: list[FrontRow]) -> None:
    """Only members of the validation front count; n and the kind of interval are told."""
    front = val_front(rows)
    held = sum(row.on_test_front for row in front)
    assert held < len(front), "the fixture shall show the difference"
    text = " ".join(summary(rows))
    assert f"{len(front)} networks are on the validation front" in text
    assert f"{held} of {len(front)} stay non-dominated on the test images" in text
    assert "95 % Wilson" in text
    assert "n = 1,500 validation and n = 2,000 test" in text
    untested = [replace(row, test_top1=None, n_test=0, on_test_front=False) for row in rows]
    assert "The test images were not read." in summary(untested)


def test_the_front_is_what_the_objectives_chose(rows: list[FrontRow]) -> None:
    """Where a search said so, top-1 does not tell who is on its front."""
    ordered = by_macs(rows)
    chosen = [replace(row, chosen=at % 2 == 0) for at, row in enumerate(ordered)]
    assert val_front(chosen) == [row for row in chosen if row.chosen] != val_front(rows)
    assert len(val_front(chosen)) == (len(rows) + 1) // 2


def test_the_plain_table(rows: list[FrontRow]) -> None:
    """One line for each row by MACs, without escape codes; the base is marked, numbers line up."""
    stream = io.StringIO()
    print_front(rows, stream)
    text = stream.getvalue()
    assert text == plain_table(rows) + "\n"
    assert "\x1b" not in text
    lines = text.splitlines()
    base = next(line for line in lines if re.match(r" *\d+  base", line))
    row = next(row for row in rows if row.name == "base")
    low, high = wilson(round(row.val_top1 * N_VAL / 100), N_VAL)
    assert f"{row.val_top1:.2f} [{low:.2f}, {high:.2f}]" in base
    assert "100 %" in base
    assert base.endswith(str(row.arch))
    assert (
        len({line.index(str(r.arch)) for line, r in zip(lines[1:], by_macs(rows), strict=False)})
        == 1
    )
    found = [line[HEADERS.index("MACs")] for line in cells(rows)]
    assert found == [macs_text(row.macs) for row in by_macs(rows)]


def test_off_the_front_is_said(rows: list[FrontRow]) -> None:
    """A named network that others beat is marked."""
    dominated = replace(rows[0], name="twins_pcpvt_micro", macs=10**9, val_top1=10.0)
    line = cells([*rows, dominated])[-1]
    assert line[1] == "twins_pcpvt_micro"
    assert line[HEADERS.index("on front")] == ("test" if dominated.on_test_front else "-")
    assert {line[HEADERS.index("on front")] for line in cells(rows)} >= {"val", "val, test"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_table(
    rows: list[FrontRow], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any usual width nothing is cut off, be it accuracies, architectures or the summary."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    print_front(rows, stream)
    assert "\x1b[" in stream.getvalue()
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for line in cells(rows):
        assert line[HEADERS.index("test top-1 %")] in words
    if width == 80:
        assert all(str(row.arch) in words for row in rows)
    count = [line[HEADERS.index("on front")] for line in cells(rows)].count("val, test")
    assert words.count("val, test") == count > 0
    assert "stay non-dominated on the test images" in words


def test_front_csv(rows: list[FrontRow], space: SearchSpace, tmp_path: Path) -> None:
    """The promised columns, percent with two decimals, intervals around them, the space's key."""
    write_front_csv(tmp_path / "front.csv", rows, space.key)
    lines = read_csv(tmp_path / "front.csv")
    assert tuple(lines[0]) == FRONT_COLUMNS
    assert tuple(lines[0])[:5] == ("arch", "macs", "params", "val_top1", "test_top1")
    for line, row in zip(lines, by_macs(rows), strict=True):
        assert line["arch"] == str(row.arch)
        assert (int(line["macs"]), int(line["params"])) == (row.macs, row.params)
        assert line["val_top1"] == f"{row.val_top1:.2f}"
        assert float(line["test_low"]) < float(line["test_top1"]) < float(line["test_high"])
        assert (line["n_val"], line["n_test"]) == ("1500", "2000")
        assert line["key"] == space.key(row.arch)
        assert line["seed"] == " ".join(map(str, row.seeds))
    assert [line["name"] for line in lines if line["name"]] == ["smallest", "base", "largest"]


def test_front_csv_before_the_test(
    rows: list[FrontRow], space: SearchSpace, tmp_path: Path
) -> None:
    """What was not measured is empty."""
    untested = [replace(row, test_top1=None, n_test=0) for row in rows]
    write_front_csv(tmp_path / "front.csv", untested, space.key)
    line = read_csv(tmp_path / "front.csv")[0]
    assert {line[name] for name in ("test_top1", "test_low", "test_high", "n_test")} == {""}
    assert "nan" not in (tmp_path / "front.csv").read_text().lower()


def test_scored_csv(scored: list[Scored], space: SearchSpace, tmp_path: Path) -> None:
    """All of them, in their order; scores that are no numbers are empty."""
    write_scored_csv(tmp_path / "scored.csv", scored, space.key)
    lines = read_csv(tmp_path / "scored.csv")
    assert tuple(lines[0]) == SCORED_COLUMNS
    assert [(int(line["seed"]), int(line["number"])) for line in lines] == [
        (row.seed, row.number) for row in scored
    ]
    assert (lines[-1]["val_top1"], lines[-1]["loss"], lines[-1]["val_low"]) == ("", "", "")
    assert lines[0]["name"] == "base"
    assert {line["cached"] for line in lines} == {"yes", "no"}


def test_arch_files(rows: list[FrontRow], tmp_path: Path) -> None:
    """One file for each row, numbered as the table; files of a longer front before are gone."""
    paths = write_archs(tmp_path, rows, str)
    assert [path.read_text() for path in paths] == [str(row.arch) for row in by_macs(rows)]
    assert sum(path.stem.endswith("_base") for path in paths) == 1
    (tmp_path / "mine.yaml").write_text("kept")
    write_archs(tmp_path, rows[:2], str)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {*arch_files(rows[:2]), "mine.yaml"}


def test_a_full_disk_leaves_the_old_page(
    rows: list[FrontRow], scored: list[Scored], tmp_path: Path
) -> None:
    """The sentence names the file, the old content stays whole, and no draft is left."""
    path = tmp_path / "front.html"
    path.write_text("old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(UserError, match=r"front\.html: file too large"):
            write_front_page(path, rows, scored, make_about())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_picture(rows: list[FrontRow], scored: list[Scored], tmp_path: Path) -> None:
    """A PNG of a readable size with the front's colour in it; every row is inside of the axis."""
    write_front_png(tmp_path / "front.png", rows, scored, "Front of space micro")
    image = Image.open(tmp_path / "front.png").convert("RGB")
    assert min(image.size) > 600
    colours = {colour for _, colour in image.getcolors(1 << 20) or []}
    assert {(0x1F, 0x5F, 0xA8), (0xC2, 0x41, 0x0C)} <= colours
    tops = [row.top1 for row in scored if math.isfinite(row.top1)]
    assert lowest_shown(rows, tops) < min(row.val_interval[0] for row in rows)


class Outline(HTMLParser):
    """What a page would load, and its table."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.rows = 0
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects."""
        self.rows += tag == "tr"
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.mark.parametrize("log", [True, False])
def test_names_have_a_line_each_below_all_intervals(rows: list[FrontRow], log: bool) -> None:
    """On either side of the middle; a stroke of a later name passes beyond the earlier ones."""
    bottom = min(row.val_interval[0] for row in rows)
    places, begin = name_places(rows, bottom, log)
    assert sorted(place.row.name for place in places) == sorted(
        row.name for row in rows if row.name
    )
    assert all(begin < place.y < bottom for place in places)
    for ends in (True, False):
        side = sorted((place for place in places if place.ends == ends), key=lambda place: -place.y)
        assert len({place.y for place in side}) == len(side)
        macs = [place.row.macs for place in side]
        assert macs == sorted(macs, reverse=not ends)


def test_the_page_stands_alone(rows: list[FrontRow], scored: list[Scored], tmp_path: Path) -> None:
    """Nothing is loaded from elsewhere; table, intervals, command, n, date and seeds are in it."""
    write_front_page(tmp_path / "front.html", rows, scored, make_about())
    text = (tmp_path / "front.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.loads == []
    assert "default-src 'none'" in text
    assert outline.rows == len(rows) + 1
    assert outline.ids == ["plot", *(f"row-{number}" for number in range(len(rows)))]
    assert "Front of space micro &lt;32 px&gt;" in text
    assert "python -m twins_nas.search --space space/svt.yaml" in text
    assert "10,500 training, 1,500 validation, 2,000 test" in text
    assert "2026-03-04" in text
    assert "accuracies are made up &amp; random" in text
    base = next(row for row in rows if row.name == "base")
    low, high = base.val_interval
    assert f"{base.val_top1:.2f}<small>[{low:.2f}, {high:.2f}]</small>" in text
    assert f"stage 2: {base.arch.stages[2]}" in text
    assert not re.search("@@[A-Z]+@@", text)
    assert "NaN" not in text[text.index("const page = ") :]


def test_the_page_cannot_be_broken_by_a_name(rows: list[FrontRow], scored: list[Scored]) -> None:
    """Text from files is escaped in HTML and in the script."""
    evil = replace(rows[0], name="</script><b onclick=x>@@STYLE@@")
    text = front_page([evil, *rows[1:]], scored, make_about())
    assert "<b onclick" not in text
    assert text.count("</script>") == 2


def test_params_and_metrics_for_mlflow(rows: list[FrontRow]) -> None:
    """Every dimension by its dotted name; numbers as in front.csv."""
    params = arch_params(rows[0].arch)
    assert params["arch"] == str(rows[0].arch)
    stages = params["stages"]
    assert isinstance(stages, dict)
    assert stages[0]["embed_dim"] == rows[0].arch.stages[0].embed_dim
    metrics = row_metrics(rows[0])
    assert set(metrics) <= set(FRONT_COLUMNS)
    assert "test_high" in metrics
    assert "test_top1" not in row_metrics(replace(rows[0], test_top1=None))
