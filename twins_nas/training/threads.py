"""How many threads a CPU training uses: all of them, or one, whichever is faster just now.

OpenMP's threads wait for each other at every operation, spinning. Beside one other busy process
that made a step of a micro supernet 6 to 15 times slower with two threads than with one
(docs/LOG.md); on a quiet machine two are faster. So the first steps try both, and a step that
becomes far slower than it was is taken as a sign of company.
"""

from __future__ import annotations

from statistics import median

import torch

TRIES = 4
SLOWER, PATIENCE = 2.5, 4


class ThreadChooser:
    """Told the seconds of every step, sets torch's number of threads for the next ones.

    It leaves a single thread, or a number that `enabled` fixes, alone. Sums of floats may differ
    in their last bits between numbers of threads.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.all = torch.get_num_threads()
        self._times: dict[int, list[float]] = {self.all: [], 1: []}
        self._settled = not enabled or self.all == 1
        self._usual = 0.0
        self._slow = 0

    def took(self, seconds: float) -> None:
        """Notes a step, and chooses."""
        if not self._settled:
            self._try(seconds)
        elif self._usual and torch.get_num_threads() > 1:
            self._slow = self._slow + 1 if seconds > SLOWER * self._usual else 0
            if self._slow == PATIENCE:
                torch.set_num_threads(1)

    def _try(self, seconds: float) -> None:
        now = torch.get_num_threads()
        self._times[now].append(seconds)
        if len(self._times[now]) < TRIES:
            return
        if now != 1:
            torch.set_num_threads(1)
            return
        best = {threads: median(times[1:]) for threads, times in self._times.items()}
        chosen = min(best, key=lambda threads: best[threads])
        self._settled, self._usual = True, best[chosen]
        torch.set_num_threads(chosen)
