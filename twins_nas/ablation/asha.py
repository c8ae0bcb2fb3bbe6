"""Early stopping of runs that are behind (ASHA, arXiv 1810.05934), decided from files.

Ray Tune's own scheduler lives in the driver and forgets its rungs when that is killed; here each
run leaves what it had at a rung in the folder, so that resumed runs, and runs without Ray, are
judged by the same. As in the paper, a run at a rung is judged by what others had there so far, and
nobody waits for anybody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from twins_nas.ablation_recipe import AshaRecipe
from twins_nas.files import write_text


@dataclass(frozen=True)
class Rungs:
    """The rungs of the runs of one group, in a folder of their own; `epochs` are a whole run's."""

    folder: Path
    recipe: AshaRecipe
    epochs: int

    @property
    def at(self) -> tuple[int, ...]:
        """The epochs after which a run may be stopped."""
        found, epoch = [], self.recipe.grace_epochs
        while epoch < self.epochs:
            found.append(epoch)
            epoch *= self.recipe.factor
        return tuple(found)

    def goes_on(self, run: str, epoch: int, score: float) -> bool:
        """Whether a run with that score (higher is better) goes on; a decision is never changed.

        The best 1 / factor at a rung go on; until `factor` runs have come to it, all do.
        """
        if epoch not in self.at:
            return True
        own = self.folder / f"epoch{epoch}" / f"{run}.json"
        if own.is_file():
            return bool(json.loads(own.read_text())["goes_on"])
        scores = [json.loads(path.read_text())["score"] for path in own.parent.glob("*.json")]
        kept = max(1, (len(scores) + 1) // self.recipe.factor)
        goes_on = len(scores) + 1 < self.recipe.factor or sum(s > score for s in scores) < kept
        write_text(own, json.dumps({"score": score, "goes_on": goes_on}) + "\n")
        return goes_on
