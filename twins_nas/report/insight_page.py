"""A supernet's insight as one HTML file that needs neither a server nor a network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from twins_nas.effects.findings import Insight
from twins_nas.report.ablation_page import card, frame
from twins_nas.report.ablation_table import about_pairs
from twins_nas.report.insight_table import Table, notes, scope, tables
from twins_nas.report.rows import About

TITLES = {
    "effects": "Main effects, with 95 % intervals",
    "interactions": "Where the variance comes from",
}


def page(found: Insight, about: About, svgs: Mapping[str, str]) -> str:
    """The page's HTML."""
    facts = [
        f"<b>{found.archs:,}</b> networks",
        f"<b>{found.backgrounds:,}</b> drawn uniformly",
        f"<b>{found.images:,}</b> validation images",
        f"<b>{found.supernets}</b> {'supernet' if found.supernets == 1 else 'supernets'}",
        escape(about.data),
        f"{about.date:%Y-%m-%d}",
    ]
    listed = "".join(f"<li>{fact}</li>" for fact in facts)
    answer = f"<p class='answer'>{escape(found.answer)}</p>"
    body = [
        f"<header><h1>{escape(about.title)}</h1><ul class='facts'>{listed}</ul></header>",
        card("The answer", answer),
        card("What the intervals hold", "".join(f"<p>{escape(t)}</p>" for t in found.caveats)),
    ]
    body += [card(TITLES[name], f"<figure>{svg}</figure>") for name, svg in svgs.items()]
    body += [card(table.title, _html(table)) for table in tables(found)]
    if said := notes(found):
        body.append(card("What could not be said", "".join(f"<p>{escape(t)}</p>" for t in said)))
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in [("what was scored", scope(found)), *about_pairs(about)]
    )
    return frame(about.title, [*body, card("How it was made", f"<dl>{pairs}</dl>")])


def _html(table: Table) -> str:
    def line(tag: str, texts: tuple[str, ...]) -> str:
        kinds = ["left" if at in table.left else "" for at in range(len(texts))]
        cells = zip(kinds, texts, strict=True)
        return "".join(f"<{tag} class='{kind}'>{escape(text)}</{tag}>" for kind, text in cells)

    rows = "\n".join(f"<tr>{line('td', texts)}</tr>" for texts in table.lines)
    return (
        f"<div class='scroll'><table><thead><tr>{line('th', table.headers)}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div><p>{escape(table.reading)}</p>"
    )
