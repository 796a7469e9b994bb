"""The weights of the step that did best on the split that weights are chosen on, kept in best.pt."""

from typing import Any

from fracgen.shards.errors import DataError
from fracgen.shards.settings import differences
from fracgen.train.engine import checkpoint
from fracgen.train.engine.trainer import Trainer


class BestWeights:
    """step, accuracy: of the best weights so far; step is 0 where there are none yet."""

    def __init__(self, trainer: Trainer[Any], choice: tuple[str, ...]) -> None:
        """Find those of a run that goes on.

        None count that were chosen on other images or in another way, or that other settings made after the last
        checkpoint. choice: dotted names of the settings without which accuracies cannot be compared.
        Raises DataError where best.pt is damaged, or gone.
        """
        self._trainer = trainer
        self.step, self.accuracy = 0, float("-inf")
        folder, last = trainer.folder, trainer.last
        if folder is None or last is None:
            return
        path = folder / checkpoint.BEST
        if not path.exists():
            if last.scores:
                raise DataError(f"{path}: is gone, which held the best weights so far; give another --out")
            return
        best = checkpoint.load(path)
        changed = differences(type(trainer.settings), best.config, trainer.config)
        chosen_alike = not any(change.split(" ")[0] in choice for change in changed)
        if best.data == trainer.fingerprint and chosen_alike and (not changed or best.step <= last.step):
            self._keep(int(best.scores["step"]), best.scores["accuracy"])

    def _keep(self, step: int, accuracy: float) -> None:
        self.step, self.accuracy = step, accuracy
        self._trainer.scores = {"step": step, "accuracy": accuracy}

    def update(self, accuracy: float) -> None:
        """Keep the weights of this step where they are better.

        They are written before the checkpoint of their step: a run that is killed between the two comes to the step
        again.
        """
        if accuracy > self.accuracy:
            self._keep(self._trainer.state.step, accuracy)
            self._trainer.save(checkpoint.BEST)

    def load(self) -> None:
        """Put the best weights into the trainer's model, on every rank."""
        trainer = self._trainer
        assert trainer.folder is not None
        if trainer.ranks.first:
            trainer.model.load_state_dict(dict(checkpoint.load(trainer.folder / checkpoint.BEST).model))
        for tensor in trainer.model.state_dict().values():
            trainer.ranks.share(tensor)
