"""What a run writes down about where it came from: the command, the commit, the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

NO_COMMIT = "none"


def command() -> str:
    """The command line of this process, as it can be typed again."""
    package = getattr(sys.modules["__main__"], "__spec__", None)
    words = ["python", "-m", package.name] if package else [Path(sys.argv[0]).name]
    return shlex.join([*words, *sys.argv[1:]])


def git_commit() -> str:
    """The commit of the current folder, `-dirty` where files differ from it, none without git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return NO_COMMIT


def machine() -> str:
    """System, processor, cores and Python version."""
    python = f"Python {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {python}"
