"""The comment that a recipe opens with: its question, command, measured cost and result."""

from __future__ import annotations

import textwrap
from datetime import datetime
from pathlib import Path

from twins_nas.files import told, write_text

WIDTH = 100
COST, RESULT = "Measured cost", "Result"


def write_result(recipe: str | None, cost: str, result: str) -> Path:
    """Puts cost and result into the opening comment of a recipe's own file.

    Raises:
        UserError: the file cannot be read or written.
    """
    assert recipe is not None
    path = Path(recipe)
    with told(path):
        text = path.read_text(encoding="utf-8")
    today = datetime.now().astimezone().date().isoformat()
    write_text(path, with_result(text, f"{cost}, {today}.", result))
    return path


def with_result(text: str, cost: str, result: str) -> str:
    """The recipe's text with another cost and result; all else stays as it is."""
    lines = text.splitlines(keepends=True)
    end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    paragraphs: list[list[str]] = []
    for line in lines[:end]:
        if line.startswith("#   ") and paragraphs:
            paragraphs[-1].append(line)
        else:
            paragraphs.append([line])
    fresh = {COST: _paragraph(COST, cost), RESULT: _paragraph(RESULT, result)}
    kept = []
    for paragraph in paragraphs:
        name = paragraph[0].removeprefix("# ").split(":", 1)[0]
        kept.append(fresh.pop(name) if name in fresh else "".join(paragraph))
    return "".join([*kept, *fresh.values(), *lines[end:]])


def _paragraph(name: str, text: str) -> str:
    lines = textwrap.wrap(
        f"{name}: {text}",
        WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) + "\n"
