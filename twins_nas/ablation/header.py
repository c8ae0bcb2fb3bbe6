"""The comment that a recipe opens with: its question, command, measured cost and result."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from twins_nas.errors import UserError
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


def check_own(recipe: str | None, plan: Any, reread: Callable[[Path], Any]) -> None:
    """Lets no result into a recipe that it is not of: `reread` gives the plan that the file has.

    Raises:
        UserError: the file is gone, or is not what runs.
    """
    if recipe is None or not Path(recipe).is_file() or reread(Path(recipe)) != plan:
        file = recipe or "a recipe"
        raise UserError(
            f"--write-result: what runs is not what {file} says (it was changed, or the command"
            " line changes it), so its comment cannot hold the result."
        )


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
