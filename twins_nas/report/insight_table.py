"""What a supernet tells of its space, as tables: for terminals, Markdown, pages, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twins_nas.effects.estimates import Effect, Figure
from twins_nas.effects.findings import MOST_PAIRS, Insight, figure_words, named
from twins_nas.files import write_text
from twins_nas.report.ablation_table import about_pairs, as_markdown
from twins_nas.report.rows import About

CSV = (
    "dimension",
    "choice",
    "reference",
    "n",
    "macs_ratio",
    "points",
    "low",
    "high",
    "p",
    "p_corrected",
    "adjusted",
    "adjusted_low",
    "adjusted_high",
    "adjusted_p",
    "adjusted_p_corrected",
    "se_backgrounds",
    "se_images",
    "se_supernets",
)


@dataclass(frozen=True)
class Table:
    """Lines of texts below headers, and how they are to be read; `left` columns are words."""

    title: str
    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left: tuple[int, ...]
    reading: str


def tables(found: Insight) -> list[Table]:
    """All tables of a report; those without a line are absent."""
    made = [_main(found), _shares(found), _pairs(found), *_agreements(found)]
    return [table for table in made if table.lines]


def plain(found: Insight) -> str:
    """The tables as text without frames."""
    return "\n\n".join(_plain(table) for table in tables(found))


def markdown(found: Insight, about: About, figures: Sequence[str]) -> str:
    """The whole report."""
    parts = [f"# {about.title}", f"**{found.answer}**", *found.caveats]
    for table in tables(found):
        parts += [f"## {table.title}", as_markdown(table.headers, table.lines, table.left)]
        parts.append(table.reading)
    parts += [f"![{Path(name).stem}]({name})" for name in figures]
    parts += ["\n".join(f"- {note}" for note in notes(found))] if notes(found) else []
    pairs = [("what was scored", scope(found)), *about_pairs(about)]
    parts += ["## How it was made", "\n".join(f"- {name}: {value}" for name, value in pairs)]
    return "\n\n".join(parts) + "\n"


def notes(found: Insight) -> list[str]:
    """What could not be said, and why."""
    said = [f"Shares of the variance: {found.why}."] if found.why else []
    said += [f"No counterpart here: {reason}." for reason in found.without]
    equal = [named(one) for one in found.effects if not one.n]
    if equal:
        said.append(f"One network at this input size on every background: {', '.join(equal)}.")
    if not found.agreements:
        said.append("No stand-alone ablation of any dimension was found to compare with.")
    compared = {one.counterpart.field for one in found.agreements}
    alone = [one.words for one in found.dimensions if one.name.rsplit(".", 1)[-1] not in compared]
    if found.agreements and alone:
        said.append(f"No stand-alone ablation of: {', '.join(alone)}.")
    return said


def scope(found: Insight) -> str:
    """How much was scored."""
    many = "1 supernet" if found.supernets == 1 else f"{found.supernets} supernets"
    return (
        f"{found.archs:,} networks on {found.images:,} validation images in {many};"
        f" {found.backgrounds:,} of them drawn uniformly, one dimension varied in each"
    )


def write_csv(path: Path, found: Insight) -> None:
    """One line for each main effect, the counterparts of ablations last.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV, lineterminator="\n")
    writer.writeheader()
    compared = [row.effect for one in found.agreements for row in one.rows]
    for one in (*found.effects, *compared):
        values = [one.dimension, one.choice, one.reference, one.n, f"{one.macs:.4f}"]
        raw, adjusted = _numbers(one.raw), _numbers(one.adjusted)
        errors = [f"{part:.4f}" for part in one.raw.parts]
        writer.writerow(dict(zip(CSV, [*values, *raw, *adjusted, *errors], strict=True)))
    write_text(path, text.getvalue())


def _numbers(figure: Figure) -> list[str]:
    ends = (None, None) if figure.interval is None else (figure.interval.low, figure.interval.high)
    values = [(figure.mean, ".4f"), *((end, ".4f") for end in ends)]
    values += [(figure.p, ".4g"), (figure.corrected, ".4g")]
    return ["" if value is None or value != value else f"{value:{how}}" for value, how in values]


def _plain(table: Table) -> str:
    lines = [table.headers, *table.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            text.ljust(width) if at in table.left else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *rows])


def _main(found: Insight) -> Table:
    lines, before = [], ""
    for one in found.effects:
        if not one.n:
            continue
        words = one.dimension.replace("stages.", "stage ").replace(".", " ")
        shown = words if words != before else ""
        before = words
        lines.append((shown, f"{one.choice} (against {one.reference})", str(one.n), *_cells(one)))
    return Table(
        "Main effects",
        ("dimension", "choice", "n", "MACs", "points", "p (all)", "at equal MACs", "p (all)"),
        tuple(lines),
        (0, 1),
        "Each choice against the base's, in points of validation top-1: the mean over n backgrounds"
        " drawn uniformly, of the network at the choice less the same network at the other one,"
        " where the two differ. [low, high]: 95 %; p is corrected for all effects of the report,"
        " raw and adjusted (Holm). MACs: mean ratio. At equal MACs: less what as many MACs buy"
        " elsewhere in the space, by a spline of top-1 over log MACs through the uniform sample.",
    )


def _cells(one: Effect) -> tuple[str, ...]:
    macs = "-" if one.macs != one.macs else f"x{one.macs:.2f}"
    figures = [(figure_words(f.mean, f.interval), p_words(f)) for f in (one.raw, one.adjusted)]
    return (macs, *figures[0], *figures[1])


def p_words(figure: Figure) -> str:
    """The corrected p."""
    if figure.corrected is None:
        return "-"
    return f"{figure.corrected:.3f}" if figure.corrected >= 0.001 else "< 0.001"


def _shares(found: Insight) -> Table:
    lines = []
    if found.variance is not None:
        for share in sorted(found.variance.shares, key=lambda one: -one.percent):
            ends = f"[{share.interval.low:.1f}, {share.interval.high:.1f}]"
            words = found.dimensions[share.dimension].words
            lines.append((words, f"{share.percent:.1f} {ends}"))
    sd = f"{found.variance.sd:.2f}" if found.variance else "-"
    return Table(
        "Importance: shares of the variance by main effects",
        ("dimension", "% of variance"),
        tuple(lines),
        (0,),
        f"Of the variance of top-1 (sd {sd} points) over {found.backgrounds:,} networks drawn"
        " uniformly, on these images, by least squares, without what noise alone would give;"
        " [low, high]: 95 % bootstrap over the networks.",
    )


def _pairs(found: Insight) -> Table:
    lines = []
    for pair in found.variance.pairs[:MOST_PAIRS] if found.variance else ():
        names = [found.dimensions[at] for at in pair.dimensions]
        chosen = zip(names, pair.cell.choices, strict=True)
        cell = " with ".join(f"{one.labels[choice]}" for one, choice in chosen)
        p = f"{pair.p:.3f}" if pair.p >= 0.001 else "< 0.001"
        share = f"{pair.percent:.1f} [{pair.interval.low:.1f}, {pair.interval.high:.1f}]"
        points = figure_words(pair.cell.points, pair.cell.interval)
        lines.append((" x ".join(one.words for one in names), share, p, cell, points))
    total = len(found.variance.pairs) if found.variance else 0
    return Table(
        f"Interactions: the largest {len(lines)} of {total} pairs",
        ("dimensions", "% of variance", "p (all)", "farthest cell", "points"),
        tuple(lines),
        (0, 3),
        f"Beyond the sum of both main effects; intervals hold for all {total} pairs (and cells) at"
        " once, over networks and images; p by Holm. The farthest cell: the two choices whose"
        " networks depart most from that sum, in standard errors.",
    )


def _agreements(found: Insight) -> list[Table]:
    made = []
    for one in found.agreements:
        lines = [
            (
                row.variant,
                str(row.effect.n),
                figure_words(row.effect.raw.mean, row.effect.raw.interval),
                "-" if row.same is None else f"{row.same:+z.2f}",
                str(row.alone.difference.n),
                figure_words(row.alone.difference.mean, row.alone.difference.interval),
                row.said,
            )
            for row in one.rows
        ]
        order = "too few variants for an order"
        if one.order is not None:
            ends = f"[{one.order.interval.low:.2f}, {one.order.interval.high:.2f}]"
            order = (
                f"order of the variants, the baseline among them: Kendall's tau"
                f" {one.order.value:.2f} {ends} (n = {one.order.n}, which is few)"
            )
        baseline = one.counterpart.dimension.labels[0]
        made.append(
            Table(
                f"Trained alone: {one.counterpart.ablation} ({one.counterpart.field}, against"
                f" {baseline})",
                ("variant", "n", "supernet", "same nets", "seeds", "stand-alone", "signs"),
                tuple(lines),
                (0, 6),
                "Supernet: the ablation's change on n backgrounds of the space; same nets: on the"
                " ablation's own network, with inherited weights (one pair); stand-alone: paired"
                f" over seeds. [low, high]: 95 %, not corrected. {order[0].upper()}{order[1:]}.",
            )
        )
    return made
