"""What a stage leaves on disk: checkpoints to resume from, and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imptool import distributed
from imptool.checkpoint import load_optimizer, load_state, save_checkpoint, save_weights
from imptool.data.label_set import LabelSet
from imptool.recipe import Recipe
from imptool.training.learner import Learner


@dataclass(frozen=True)
class Keeping:
    """The files of a stage in the folder `run`; the main process writes them.

    name: of the stage. model_name: as weights say it.
    """

    run: Path
    name: str
    model_name: str
    recipe: Recipe
    labels: LabelSet

    def save_weights(self, path: Path, learner: Learner) -> None:
        """Write the weights that are measured."""
        if distributed.is_main():
            save_weights(path, learner.trained, self.model_name, self.recipe, self.labels)

    def save_checkpoint(self, iteration: int, learner: Learner, **state: Any) -> Path | None:
        """Write a checkpoint, with the further state that `checkpoint.save_checkpoint` takes."""
        path = None
        if distributed.is_main():
            path = save_checkpoint(
                self.run,
                stage=self.name,
                iteration=iteration,
                model=learner.model,
                name=self.model_name,
                optimizer=learner.optimizer,
                average=learner.average,
                recipe=self.recipe,
                labels=self.labels,
                **state,
            )
        distributed.wait_for_all()
        return path

    def restore(self, checkpoint: dict[str, Any], learner: Learner) -> None:
        """Give a learner what a checkpoint holds of it; it is taken out, as it is as large as the model.

        Raises:
            InputError: it belongs to another model or optimizer.
        """
        load_state(learner.model, checkpoint.pop("model"), source=self.run)
        load_optimizer(learner.optimizer, checkpoint.pop("optimizer"), source=self.run)
        if learner.average is not None:
            load_state(learner.average, checkpoint.pop("average"), source=self.run)
