"""An exploration in words: its answer, tables, Markdown, a page, and a file of all trials."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from twins_nas.files import write_csv
from twins_nas.report.ablation_page import card, frame
from twins_nas.report.ablation_plots import axes_of
from twins_nas.report.ablation_table import about_pairs, as_markdown
from twins_nas.report.files import two
from twins_nas.report.plots import FAINT, FRONT, INK
from twins_nas.report.rows import (
    About,
    FrontRow,
    interval,
    macs_text,
    percent_with_interval,
    summary,
    val_front,
)
from twins_nas.report.table import HEADERS, LEFT, by_macs, cells
from twins_nas.space import SearchSpace
from twins_nas.stats import Summary
from twins_nas.tuning.importance import LEAST, Importance
from twins_nas.tuning.results import Failed, Scored

SEEDS = HEADERS.index("seeds")
SHARES = ("dimension", "share of variance", "above chance")
AGAIN = ("#", "MACs", "seed it was chosen by", "further seeds", "n", "sd", "test, all seeds")
COLUMNS = (
    *("number", "name", "status", "reason", "macs", "params", "val_top1", "val_low", "val_high"),
    *("val_loss", "n_val", "train_seconds", "on_front", "arch", "key"),
)
MORE = 12
"""Rows of importances that a table shows."""


@dataclass(frozen=True)
class Explored:
    """What an exploration found.

    `rows` are the front and the named networks; `failed` those that were stopped early, too;
    `again` tells of further seeds: the row's number in the table, and the validation accuracies of
    the seeds that it was not chosen by, and test accuracies of all seeds.
    """

    question: str
    paper: str
    space: SearchSpace
    objectives: tuple[str, ...]
    rows: tuple[FrontRow, ...]
    scored: tuple[Scored, ...]
    failed: tuple[Failed, ...]
    importances: tuple[Importance, ...]
    again: tuple[tuple[int, Summary, Summary | None], ...]

    @property
    def trained(self) -> int:
        """How many different networks were trained to their end."""
        return sum(not row.cached for row in self.scored)

    @property
    def answer(self) -> str:
        """The front and what matters, in two sentences."""
        front = val_front(self.rows)
        many = "1 network is" if len(front) == 1 else f"{len(front)} networks are"
        ends = [
            f"{percent_with_interval(row.val_top1, row.val_interval)} % at"
            f" {macs_text(row.macs)}MACs"
            for row in (front[0], front[-1])
        ]
        said = " to ".join(dict.fromkeys(ends))
        return (
            f"{many} on the front of validation top-1 and MACs of {self.trained} trained alone,"
            f" from {said} (n = {front[0].n_val:,} images, one training seed each, 95 % Wilson"
            f" intervals).{self.fresh} {self.importance}"
        )

    @property
    def fresh(self) -> str:
        """What further seeds say of the front's ends, in a sentence; empty without them."""
        rows, front = by_macs(self.rows), val_front(self.rows)
        said = []
        for number, found, _ in self.again:
            if rows[number] in (front[0], front[-1]):
                said.append(
                    f"{_mean(found)} % at {macs_text(rows[number].macs)}MACs (n = {found.n})"
                )
        return f" On further seeds, means and 95 % t intervals: {', '.join(said)}." if said else ""

    @property
    def importance(self) -> str:
        """What matters for the accuracy, in a sentence."""
        if not self.importances:
            return f"Importances need {LEAST} networks that differ in their accuracy."
        told = [one for one in self.importances if one.told]
        ends = f"n = {self.trained} networks, 95 % bootstrap intervals"
        if not told:
            return f"No dimension's part of the accuracy's variance is told from chance ({ends})."
        parts = ", ".join(f"{one.name} {_share(one)}" for one in told)
        return f"Parts of the accuracy's variance that are told from chance: {parts} ({ends})."

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to read the tables."""
        notes = []
        reasons: dict[tuple[bool, str], list[str]] = {}
        for one in self.failed:
            reasons.setdefault((one.stopped, one.reason), []).append(str(one.number))
        for (stopped, reason), numbers in reasons.items():
            what = "Stopped early" if stopped else "Failed"
            which = f"trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
            notes.append(f"{what}, and not on the front: {which}: {reason}.")
        if twice := sum(row.cached for row in self.scored):
            notes.append(f"{twice} trials asked for a network that had been trained already.")
        if self.again:
            notes.append(
                "The front was chosen by the accuracies of its first seed, which flatters it; the"
                " further seeds do not. [low, high] of the further seeds are 95 % t intervals."
            )
        else:
            notes.append(
                "One training seed each: the front was chosen by the accuracies that stand there,"
                " which flatters it, and its neighbours are not told apart. `seeds: 4` trains its"
                " networks on three further seeds."
            )
        return tuple(notes)


def reading(found: Explored) -> str:
    """How importances are to be read."""
    if not found.importances:
        return found.importance
    return (
        "Share of variance: what a dimension explains alone of the validation accuracy over the"
        f" whole space, by a forest fitted to {found.trained} networks (fANOVA); what is missing"
        " to 1 are interactions. [low, high]: 95 % bootstrap intervals over the networks. Above"
        f" chance: more than {found.importances[0].chance:.2f}, which the largest of all shares"
        " exceeds in 5 % of the cases where accuracies are shuffled. The networks are those that"
        " the sampler chose, one seed each, so a share may be off where it did not look."
    )


def front_table(found: Explored) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and lines of the front."""
    kept = [at for at in range(len(HEADERS)) if at != SEEDS]
    lines = [tuple(line[at] for at in kept) for line in cells(found.rows)]
    return tuple(HEADERS[at] for at in kept), lines


def share_lines(found: Explored) -> list[tuple[str, ...]]:
    """Lines of the importances."""
    shown = found.importances[:MORE]
    return [(one.name, _share(one), "yes" if one.told else "no") for one in shown]


def again_lines(found: Explored) -> list[tuple[str, ...]]:
    """Lines of the front's further seeds."""
    rows = by_macs(found.rows)
    lines: list[tuple[str, ...]] = []
    for number, fresh, test in found.again:
        row = rows[number]
        sd = "-" if fresh.sd is None else f"{fresh.sd:.2f}"
        tested = "-" if test is None else f"{test.mean:.2f} (n = {test.n})"
        first, mean = f"{row.val_top1:.2f}", _mean(fresh)
        lines.append((str(number), macs_text(row.macs), first, mean, str(fresh.n), sd, tested))
    return lines


def markdown(found: Explored, about: About, figures: Sequence[str]) -> str:
    """The whole report."""
    headers, lines = front_table(found)
    front = as_markdown(headers, lines, (*LEFT[:1], len(headers) - 1))
    parts = [f"# {found.question}", f"**{found.answer}**", front, *summary(found.rows)]
    if found.again:
        parts += ["## The front on further seeds", as_markdown(AGAIN, again_lines(found), ())]
    parts.append("\n".join(f"- {note}" for note in found.notes))
    parts += ["## What matters", reading(found)]
    if found.importances:
        parts.append(as_markdown(SHARES, share_lines(found), (0,)))
    parts += [f"![{Path(name).stem}]({name})" for name in figures]
    if found.paper:
        parts += ["## What the papers found", found.paper]
    parts += ["## How it was made", "\n".join(f"- {k}: {v}" for k, v in about_pairs(about))]
    return "\n\n".join(parts) + "\n"


def page(found: Explored, about: About, front_png: bytes, shares: str) -> str:
    """The report as HTML; `shares` is the picture of the importances, empty without them."""
    facts = [f"<b>{len(val_front(found.rows))}</b> on the front", f"<b>{found.trained}</b> trained"]
    for word, stopped in (("stopped", True), ("failed", False)):
        if count := sum(one.stopped is stopped for one in found.failed):
            facts.append(f"<b>{count}</b> {word}")
    facts += [escape(about.data), f"{about.date:%Y-%m-%d}"]
    listed = "".join(f"<li>{fact}</li>" for fact in facts)
    picture = b64encode(front_png).decode()
    headers, lines = front_table(found)
    body = [
        f"<header><h1>{escape(found.question)}</h1><ul class='facts'>{listed}</ul></header>",
        card("The answer", f"<p class='answer'>{escape(found.answer)}</p>"),
        card(
            "The front",
            f"<figure><img style='width:100%' alt='' src='data:image/png;base64,{picture}'>"
            "</figure><p>front.html beside this page shows each network under the pointer.</p>",
        ),
        card("The networks", _table(headers, lines) + _texts(summary(found.rows))),
    ]
    if found.again:
        body.append(card("The front on further seeds", _table(AGAIN, again_lines(found))))
    body.append(card("How to read it", _texts(found.notes)))
    table = _table(SHARES, share_lines(found)) if found.importances else ""
    figure = f"<figure>{shares}</figure>" if shares else ""
    body.append(card("What matters", figure + table + _texts([reading(found)])))
    if found.paper:
        body.append(card("What the papers found", _texts([found.paper])))
    pairs = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in about_pairs(about))
    body.append(card("How it was made", f"<dl>{pairs}</dl>"))
    return frame(found.question, body)


def shares_figure(importances: Sequence[Importance]) -> Any:
    """Each dimension's part of the accuracy's variance, its interval, and what chance gives."""
    shown = list(importances[:MORE])
    figure, axes = axes_of((7.6, 1.3 + 0.36 * len(shown)))
    for place, one in enumerate(shown):
        colour = FRONT if one.told else FAINT
        axes.barh(place, one.share, height=0.6, color=colour, alpha=0.35)
        axes.plot((one.low, one.high), (place, place), color=colour, lw=2, solid_capstyle="butt")
        axes.plot(one.share, place, "o", color=colour, ms=5)
    label = "largest share that chance gives (95 %)"
    axes.axvline(importances[0].chance, color=INK, lw=1, ls="--", label=label)
    axes.set_yticks(range(len(shown)), [one.name for one in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the validation accuracy's variance, with 95 % intervals")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def write_trials_csv(path: Path, found: Explored) -> None:
    """One line for each trial, whatever became of it, with the value of each of its dimensions.

    Raises:
        UserError: the file cannot be written.
    """
    names = [choice.name for choice in found.space.choices]
    front = {row.arch for row in val_front(found.rows)}
    lines: dict[int, dict[str, object]] = {}
    for row in found.scored:
        low, high = interval(row.top1, row.n)
        lines[row.number] = {
            "status": "cached" if row.cached else "finished",
            "val_top1": two(row.top1),
            "val_low": two(low),
            "val_high": two(high),
            "val_loss": f"{row.loss:.6g}",
            "n_val": row.n,
            "train_seconds": f"{row.seconds:.2f}",
            "on_front": "yes" if row.arch in front else "no",
        }
    for one in found.failed:
        status = "stopped" if one.stopped else "failed"
        lines[one.number] = {"status": status, "reason": one.reason, "on_front": "no"}
    every: list[Scored | Failed] = [*found.scored, *found.failed]
    for trial in every:
        line = lines[trial.number]
        line |= {"number": trial.number, "name": trial.name, "arch": str(trial.arch)}
        line |= {"macs": trial.macs, "params": trial.params, "key": found.space.key(trial.arch)}
        line |= found.space.encode(trial.arch)
    write_csv(path, (*COLUMNS, *names), [lines[number] for number in sorted(lines)])


def _mean(found: Summary) -> str:
    bounds = found.interval
    return f"{found.mean:.2f}" + (f" [{bounds.low:.2f}, {bounds.high:.2f}]" if bounds else "")


def _share(one: Importance) -> str:
    return f"{one.share:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in line)}</tr>" for line in lines
    )
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f"<div class='scroll'><table>{rows}</table></div>"


def _texts(texts: Sequence[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)
