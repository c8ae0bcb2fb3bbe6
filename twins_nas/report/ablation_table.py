"""An ablation as a table and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from twins_nas.ablation.analysis import Findings, Row
from twins_nas.ablation.results import RunResult
from twins_nas.files import write_csv
from twins_nas.report.rows import About, macs_text, params_text
from twins_nas.stats import Interval, Summary

HEADERS = (
    "variant",
    "n",
    "mean",
    "sd",
    "MACs",
    "params",
    "difference",
    "p (family)",
    "effect size",
    "detectable",
    "verdict",
    "test top-1 %",
)
LEFT = (0, 10)
CSV = (
    "variant",
    "base",
    "seed",
    "status",
    "val_top1",
    "val_loss",
    "test_top1",
    "test_loss",
    "macs",
    "params",
    "epochs",
    "batch_size",
    "accumulate",
    "train_seconds",
    "reason",
)


def cells(findings: Findings) -> list[tuple[str, ...]]:
    """One tuple of texts for each variant, in the order of `HEADERS`."""
    return [_cells(row) for row in findings.rows]


def markdown_table(findings: Findings) -> str:
    """The table as Markdown."""
    return as_markdown(HEADERS, cells(findings), LEFT)


def as_markdown(headers: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Lines of texts as a table of Markdown; columns are set right, but for the `left` ones."""
    rule = ["---" if at in left else "---:" for at in range(len(headers))]
    every = [headers, *lines]
    rows = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in every]
    return "\n".join([rows[0], "|" + "|".join(rule) + "|", *rows[1:]])


def plain_table(findings: Findings) -> str:
    """The table as text without frames."""
    return as_plain(HEADERS, cells(findings), LEFT)


def as_plain(headers: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Lines of texts as a table without frames; columns are set right, but for the `left` ones."""
    lines = [headers, *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if at in left else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def reading(findings: Findings) -> list[str]:
    """How the table is to be read."""
    margin = findings.rule.margin
    within = (
        f"Differences within {margin:g} {findings.rule.unit} were declared not to matter."
        if margin is not None
        else "No margin of equivalence was declared, so nothing is called equivalent."
    )
    return [
        f"mean, sd and n are of the {findings.metric} over seeds, [low, high] are 95 % t intervals."
        " difference: variant minus baseline on the same seeds, with the interval of that one"
        " comparison; p and verdict are corrected for all of the table, so an interval may exclude"
        " 0 where there is no verdict. effect size: the mean difference in standard deviations of"
        " the differences; detectable: the smallest true difference that so many seeds show with"
        " 80 % power. " + within
    ]


def markdown(
    question: str, paper: str, findings: Findings, about: About, figures: Sequence[str]
) -> str:
    """The whole report."""
    parts = [f"# {question}", f"**{findings.answer}**", markdown_table(findings)]
    parts += reading(findings)
    if findings.notes:
        parts.append("\n".join(f"- {note}" for note in findings.notes))
    parts += [f"![{Path(name).stem}]({name})" for name in figures]
    if paper:
        parts += ["## What the papers found", paper, "## What was found here", findings.answer]
    parts += ["## How it was made", "\n".join(f"- {k}: {v}" for k, v in about_pairs(about))]
    return "\n\n".join(parts) + "\n"


def about_pairs(about: About) -> list[tuple[str, str]]:
    """What a reader must know to make it again."""
    pairs = [
        ("command", about.command),
        ("data", f"{about.data}, {about.n_train:,} training images"),
        ("seeds", " ".join(map(str, about.seeds))),
        ("date", f"{about.date:%Y-%m-%d %H:%M %Z}".strip()),
        ("commit", about.commit),
        ("machine", about.machine),
    ]
    return pairs + [("note", note) for note in about.notes]


def write_runs_csv(
    path: Path,
    findings: Findings,
    tests: dict[tuple[str, int], object],
    more: Callable[[RunResult], dict[str, float]],
) -> None:
    """One line for each run, whatever became of it; `more` gives further columns of a result.

    Raises:
        UserError: the file cannot be written.
    """
    lines: list[dict[str, object]] = []
    for row in findings.rows:
        for result in row.results:
            test = tests.get((result.label, result.seed))
            line: dict[str, object] = {
                "variant": row.variant.name,
                "base": row.variant.group,
                "macs": row.variant.macs,
                "params": row.variant.params,
                "train_seconds": result.seconds,
            }
            for name in CSV:
                if name not in line:
                    value = getattr(result, name, getattr(test, name, None))
                    line[name] = "" if value is None else value
            lines.append(line | more(result))
    further = dict.fromkeys(name for line in lines for name in line if name not in CSV)
    write_csv(path, (*CSV, *further), ({name: "" for name in further} | line for line in lines))


def _cells(row: Row) -> tuple[str, ...]:
    one = row.comparison
    known = ("baseline", "", "", "", "")
    if one is not None:
        known = (
            _signed(one.difference.mean, one.difference.interval),
            "-" if one.p is None else f"{one.p:.3f}" if one.p >= 0.001 else "< 0.001",
            "-" if one.difference.effect is None else f"{one.difference.effect:+.2f}",
            "-" if one.detectable is None else f"{one.detectable:.2f}",
            one.verdict.text,
        )
    return (
        row.variant.label,
        "0" if row.summary is None else str(row.summary.n),
        _mean(row.summary),
        "-" if row.summary is None or row.summary.sd is None else f"{row.summary.sd:.2f}",
        macs_text(row.variant.macs),
        params_text(row.variant.params),
        *known,
        _mean(row.test),
    )


def _mean(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    bounds = summary.interval
    return f"{summary.mean:.2f}" + (f" [{bounds.low:.2f}, {bounds.high:.2f}]" if bounds else "")


def _signed(mean: float, bounds: Interval | None) -> str:
    if mean != mean:
        return "-"
    return f"{mean:+.2f}" + (f" [{bounds.low:+.2f}, {bounds.high:+.2f}]" if bounds else "")
