"""The weights of the step with the best accuracy on the split that weights are chosen on, kept in best.pt."""

from typing import Any

from fracgen.shards.errors import DataError
from fracgen.shards.settings import differences
from fracgen.train.engine import checkpoint
from fracgen.train.engine.trainer import Trainer


class BestWeights:
    """Chooses the best weights of a run, and owns best.pt, which `Trainer.save_best` writes for it.

    step, accuracy: of the best weights so far; step is 0 where there are none yet.
    """

    def __init__(self, trainer: Trainer[Any], same_settings: tuple[str, ...]) -> None:
        """Read the best weights' step and accuracy, where the run goes on from a checkpoint.

        They are left out where their accuracy cannot be compared with today's: where the images or one of
        `same_settings` (dotted names) were others; or where any setting was and they are younger than the checkpoint.
        trainer: after `set_up`.
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
        chosen_alike = not any(change.split(" ")[0] in same_settings for change in changed)
        if best.data == trainer.fingerprint and chosen_alike and (not changed or best.step <= last.step):
            self._keep(int(best.scores["step"]), best.scores["accuracy"])

    def _keep(self, step: int, accuracy: float) -> None:
        self.step, self.accuracy = step, accuracy
        self._trainer.scores = {"step": step, "accuracy": accuracy}

    def update(self, accuracy: float) -> None:
        """Keep the weights of this step where they are better. accuracy: of these weights, a share.

        They are written before the checkpoint of their step: a run that is killed between the two comes to the step
        again.
        """
        if accuracy > self.accuracy:
            self._keep(self._trainer.state.step, accuracy)
            self._trainer.save_best()

    def load(self) -> None:
        """Put the best weights into the model that is evaluated and exported, on every rank."""
        trainer, model = self._trainer, self._trainer.state.eval_model
        assert trainer.folder is not None
        if trainer.ranks.first:
            model.load_state_dict(dict(checkpoint.load(trainer.folder / checkpoint.BEST).model))
        for tensor in model.state_dict().values():
            trainer.ranks.share(tensor)
