"""An ablation as one HTML file, `report.html`, that needs neither a server nor a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from twins_nas.ablation.analysis import Findings
from twins_nas.report.ablation_table import HEADERS, LEFT, about_pairs, cells, reading
from twins_nas.report.rows import About
from twins_nas.report.template import STYLE

TITLES = {
    "effects": "Differences from the baseline, with 95 % intervals and the seeds' own",
    "curves": "Learning curves: mean over seeds, and one standard deviation",
    "macs": "Over MACs, with 95 % intervals over seeds",
}
MORE_STYLE = """
td.verdict { white-space: normal; min-width: 150px; text-align: left; }
.answer { font-size: 16px; margin: 4px 0 0; }
figure { margin: 8px 0 0; background: #fff; border-radius: 8px; padding: 6px; }
figure svg { width: 100%; max-width: 860px; height: auto; display: block; margin: 0 auto; }
"""


def page(
    question: str, paper: str, findings: Findings, about: About, svgs: Mapping[str, str]
) -> str:
    """The page's HTML."""
    body = [
        f"<header><h1>{escape(question)}</h1><ul class='facts'>{_facts(findings, about)}</ul>"
        "</header>",
        card("The answer", f"<p class='answer'>{escape(findings.answer)}</p>"),
        card("The variants", _table(findings)),
    ]
    body += [card(TITLES[name], f"<figure>{svg}</figure>") for name, svg in svgs.items()]
    if paper:
        both = f"<p>{escape(paper)}</p><h2>What was found here</h2><p>{escape(findings.answer)}</p>"
        body.append(card("What the papers found", both))
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about_pairs(about)
    )
    body.append(card("How it was made", f"<dl>{pairs}</dl>"))
    return frame(question, body)


def frame(title: str, body: Sequence[str]) -> str:
    """A whole page of cards, with nothing in it that runs."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{STYLE}{MORE_STYLE}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
</body>
</html>
"""


def card(title: str, content: str) -> str:
    """A part of the page; `content` is HTML."""
    return f"<section class='card'><h2>{escape(title)}</h2>{content}</section>\n"


def _facts(findings: Findings, about: About) -> str:
    runs = sum(len(row.results) for row in findings.rows)
    facts = [f"<b>{len(findings.rows)}</b> variants", f"<b>{runs}</b> runs"]
    for status in ("failed", "stopped"):
        if count := sum(row.count(status) for row in findings.rows):
            facts.append(f"<b>{count}</b> {status}")
    facts += [escape(about.data), f"{about.date:%Y-%m-%d}"]
    return "".join(f"<li>{fact}</li>" for fact in facts)


def _table(findings: Findings) -> str:
    head = "".join(
        f"<th class='{'left' if at in LEFT else ''}'>{escape(name)}</th>"
        for at, name in enumerate(HEADERS)
    )
    rows = []
    for row, line in zip(findings.rows, cells(findings), strict=True):
        kind = "base" if row.is_baseline else ""
        rows.append(f"<tr class='{kind}'>{''.join(map(_cell, range(len(line)), line))}</tr>")
    below = "".join(f"<p>{escape(text)}</p>" for text in (*findings.notes, *reading(findings)))
    body = "\n".join(rows)
    return (
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"</table></div>{below}"
    )


def _cell(at: int, text: str) -> str:
    words = escape(text)
    if text.endswith("]"):
        value, bounds = words.split(" ", 1)
        words = f"{value}<small>{bounds}</small>"
    if at == 0:
        words = f"<b>{words}</b>"
    kind = "verdict" if HEADERS[at] == "verdict" else "left" if at in LEFT else ""
    return f"<td class='{kind}'>{words}</td>"
