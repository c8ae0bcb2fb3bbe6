"""The report as one HTML file, `front.html`, that needs neither a server nor a network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from twins_nas.files import write_text
from twins_nas.report.plots import MEGA, NamePlace, log_is_better, lowest_shown, name_places
from twins_nas.report.rows import (
    About,
    FrontRow,
    drawable,
    is_base,
    macs_text,
    params_text,
    percent_with_interval,
    seed_fronts,
    stage_words,
    staircase,
    summary,
    val_front,
)
from twins_nas.report.table import HEADERS, LEFT, by_macs, cells
from twins_nas.report.template import HTML, SCRIPT, STYLE
from twins_nas.tuning.results import Scored

Trace = dict[str, Any]
ARCH, NAME = len(HEADERS) - 1, 1
STEPS = (1, 1.5, 2, 3, 4, 5, 7)


def write_front_page(
    path: Path, rows: Sequence[FrontRow], scored: Sequence[Scored], about: About
) -> None:
    """Writes the page: the front to hover over, the table, and how it was made.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, front_page(rows, scored, about))


def front_page(rows: Sequence[FrontRow], scored: Sequence[Scored], about: About) -> str:
    """The page's HTML, plotly's script within."""
    from plotly.offline import get_plotlyjs

    rows = by_macs(rows)
    known = drawable(scored)
    bottom = lowest_shown(rows, [row.top1 for row in known])
    below = sum(row.top1 < bottom for row in known)
    parts = {
        "TITLE": escape(about.title),
        "STYLE": STYLE,
        "FACTS": _facts(rows, known, about),
        "BELOW": f"{below:,} scored networks are below the axis." if below else "",
        "HEAD": _line("th", HEADERS),
        "BODY": "\n".join(_body(rows)),
        "SUMMARY": "".join(f"<p>{escape(text)}</p>" for text in summary(rows)),
        "ABOUT": "".join(f"<dt>{escape(k)}</dt><dd>{v}</dd>" for k, v in _about(rows, about)),
        "PLOTLY": get_plotlyjs(),
        "DATA": json.dumps(_data(rows, scored, bottom)).replace("</", "<\\/"),
        "SCRIPT": SCRIPT,
    }
    return re.sub("@@([A-Z]+)@@", lambda found: parts[found[1]], HTML)


def _facts(rows: Sequence[FrontRow], known: Sequence[Scored], about: About) -> str:
    front = val_front(rows)
    facts = [f"<b>{len(front)}</b> networks on the validation front"]
    if any(row.test_top1 is not None for row in front):
        facts.append(f"<b>{sum(row.on_test_front for row in front)}</b> of them on the test front")
    facts.append(f"<b>{len(known):,}</b> networks scored")
    facts.append(f"{escape(about.data)}")
    facts.append(f"{about.date:%Y-%m-%d}")
    return "".join(f"<li>{fact}</li>" for fact in facts)


def _about(rows: Sequence[FrontRow], about: About) -> list[tuple[str, str]]:
    n_val = max(row.n_val for row in rows)
    n_test = max(row.n_test for row in rows)
    images = f"{about.n_train:,} training, {n_val:,} validation, {n_test:,} test"
    pairs = [
        ("command", f"<code>{escape(about.command)}</code>"),
        ("data", escape(about.data)),
        ("images", images),
        ("seeds", " ".join(map(str, about.seeds))),
        ("date", f"{about.date:%Y-%m-%d %H:%M %Z}".strip()),
        ("commit", f"<code>{escape(about.commit)}</code>"),
        ("machine", escape(about.machine)),
        ("files", "front.csv, scored.csv, archs/*.yaml (numbered as the table) beside this page"),
    ]
    return pairs + [("note", escape(note)) for note in about.notes]


def _body(rows: Sequence[FrontRow]) -> list[str]:
    front, lines = val_front(rows), []
    for number, (row, line) in enumerate(zip(rows, cells(rows), strict=True)):
        kind = "base" if is_base(row.name) else "" if row in front else "off"
        lines.append(f'<tr id="row-{number}" class="{kind}">{_line("td", line)}</tr>')
    return lines


def _line(tag: str, texts: Sequence[str]) -> str:
    out = []
    for index, text in enumerate(texts):
        words = escape(text)
        classes = "left" if index in LEFT else ""
        if tag == "td" and index == ARCH:
            classes += " arch"
            words = "".join(f"<span>{part}</span>" for part in re.split(r"(?<= \|) ", words))
        elif tag == "td" and index == NAME:
            words = f"<b>{words}</b>"
        elif tag == "td" and text.endswith("]"):
            value, bounds = words.split(" ", 1)
            words = f"{value}<small>{bounds}</small>"
        out.append(f'<{tag} class="{classes}">{words}</{tag}>')
    return "".join(out)


def _data(rows: Sequence[FrontRow], scored: Sequence[Scored], bottom: float) -> Trace:
    known = drawable(scored)
    macs = [row.macs / MEGA for row in rows] + [row.macs / MEGA for row in known]
    top = max([row.val_interval[1] for row in rows] + [row.top1 for row in known])
    ticks = [size * step for size in (0.1, 1, 10, 100, 1e3, 1e4) for step in STEPS]
    ticks = [tick for tick in ticks if min(macs) * 0.9 <= tick <= max(macs) * 1.1]
    log = log_is_better(macs)
    places, begin = name_places(rows, bottom, log)
    return {
        "traces": _traces(rows, scored) + _names(places),
        "axis": "log" if log else "linear",
        "range": [begin, top + 0.06 * (top - bottom)],
        "ticks": {
            "linear": {},
            "log": {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]},
        },
    }


def _traces(rows: Sequence[FrontRow], scored: Sequence[Scored]) -> list[Trace]:
    known = drawable(scored)
    members = {row.arch for row in rows}
    others = [row for row in known if row.arch not in members]
    dots = _points(f"scored, {len(known):,}", "dot", [(row.macs, row.top1) for row in others])
    dots |= {"marker": {"size": 5, "opacity": 0.4}, "text": list(map(_hover_scored, others))}
    traces = [dots]
    fronts = seed_fronts(scored)
    for seed, steps in fronts.items() if len(fronts) > 1 else ():
        traces.append(_steps(f"front of seed {seed}", steps) | {"opacity": 0.35})
    steps = staircase((row.macs, row.val_top1) for row in rows)
    steps.append((max(row.macs for row in rows), steps[-1][1]))
    traces.append(_steps("validation front", steps, width=2.2))
    for label, colour, named in (
        ("members, 95 % intervals", "front", False),
        ("by name", "named", True),
    ):
        chosen = [row for row in rows if bool(row.name) == named]
        traces.append(_members(label, colour, rows, chosen))
    tested = [row for row in rows if row.test_top1 is not None]
    if tested:
        points = [(row.macs, row.test_top1 or 0.0) for row in tested]
        test = _points("on the test images", "test", points)
        test["marker"] = {"size": 8, "symbol": "circle-open", "line": {"width": 1.6}}
        test |= {"text": list(map(_hover, tested)), "customdata": _numbers(rows, tested)}
        traces.append(test | {"visible": "legendonly"})
    return traces


def _members(
    label: str, colour: str, rows: Sequence[FrontRow], chosen: Sequence[FrontRow]
) -> Trace:
    trace = _points(label, colour, [(row.macs, row.val_top1) for row in chosen])
    return trace | {
        "marker": {"size": 10 if colour == "named" else 8, "symbol": _symbol(colour)},
        "hovertext": list(map(_hover, chosen)),
        "customdata": _numbers(rows, chosen),
        "legendgroup": colour,
        "error_y": {
            "type": "data",
            "array": [round(row.val_interval[1] - row.val_top1, 3) for row in chosen],
            "arrayminus": [round(row.val_top1 - row.val_interval[0], 3) for row in chosen],
            "thickness": 1.1,
            "width": 3,
        },
    }


def _names(places: Sequence[NamePlace]) -> list[Trace]:
    """The names below the intervals, each with a stroke down to it."""
    strokes = _points("names", "named", [])
    strokes["x"] = [x for row, *_ in places for x in (row.macs / MEGA, row.macs / MEGA, None)]
    strokes["y"] = [y for row, low, _ in places for y in (row.val_interval[0], low, None)]
    strokes |= {"mode": "lines", "line": {"width": 1, "dash": "dot"}}
    texts = _points("names", "named", [(row.macs, y) for row, y, _ in places]) | {
        "mode": "text",
        "text": [f"<b>{escape(row.name)}</b>" for row, *_ in places],
        "textposition": [f"middle {'left' if ends else 'right'}" for *_, ends in places],
        "textfont": {"size": 12.5},
    }
    beside = {"showlegend": False, "legendgroup": "named", "hoverinfo": "skip"}
    return [strokes | beside, texts | beside]


def _symbol(colour: str) -> str:
    return "diamond" if colour == "named" else "circle"


def _points(label: str, colour: str, points: Sequence[tuple[float, float]]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [macs / MEGA for macs, _ in points],
        "y": [round(top1, 3) for _, top1 in points],
        "hoverinfo": "text",
        "meta": {"colour": colour},
    }


def _steps(label: str, steps: Sequence[tuple[float, float]], width: float = 1.2) -> Trace:
    line = {"shape": "hv", "width": width}
    return _points(label, "front", steps) | {"mode": "lines", "line": line, "hoverinfo": "skip"}


def _numbers(rows: Sequence[FrontRow], chosen: Sequence[FrontRow]) -> list[int]:
    return [rows.index(row) for row in chosen]


def _hover(row: FrontRow) -> str:
    val = percent_with_interval(row.val_top1, row.val_interval)
    lines = [f"<b>{escape(row.name)}</b>"] if row.name else []
    lines.append(f"{macs_text(row.macs)} MACs, {params_text(row.params)} params")
    lines.append(f"validation {val} %, n = {row.n_val:,}")
    if row.test_top1 is not None:
        test = percent_with_interval(row.test_top1, row.test_interval)
        lines.append(f"test {test} %, n = {row.n_test:,}")
    return "<br>".join([*lines, "", *map(escape, stage_words(row.arch))])


def _hover_scored(row: Scored) -> str:
    lines = [f"scored as number {row.number} of seed {row.seed}"]
    lines.append(f"{macs_text(row.macs)} MACs, {params_text(row.params)} params")
    lines.append(f"validation {row.top1:.2f} %, n = {row.n:,}")
    return "<br>".join([*lines, "", *map(escape, stage_words(row.arch))])
