"""The way of one search: images, supernet, search, test images, report. Each step is durable and can be resumed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from twins_nas.recipes import SearchRecipe
from twins_nas.report.rows import FrontRow
from twins_nas.runs import RunFolder, Settings
from twins_nas.space import SearchSpace
from twins_nas.tracking import Tracker


@dataclass
class Pipeline:
    """One run from images to report.

    Raises:
        UserError: what the user can mend: a data set, a device, a disk, a store.
    """

    folder: RunFolder
    space: SearchSpace
    recipe: SearchRecipe
    settings: Settings

    def run(self) -> list[FrontRow]:
        """Does what is not done yet, and gives the front with the named points."""
        torch.set_num_threads(self.threads)
        data = self.data
        tracker = Tracker("search")
        params = {
            "recipe": self.recipe.model_dump(),
            "space": self.space_summary,
            "data": data.name,
        }
        name = self.folder.path.name
        with tracker.start(name, params, run_id=self.settings.mlflow_run) as run:
            self.folder.write_settings(dataclasses.replace(self.settings, mlflow_run=run.id))
            model = self.train(run)
            scored = self.search(model, run)
            rows = self.front(model, scored)
            self.report(rows, scored, run)
        print(f"Look at it: {tracker.store.look}")
        return rows
