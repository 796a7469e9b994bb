"""The trainer of every protocol: a run set up in order, taken to its end, and kept in its folder.

A protocol opens its data and makes its model between the calls, and hands over iterables and functions:

    trainer = Trainer(settings, folder, ranks)      # where the run goes on; what cannot work is refused
    trainer.set_up(model, loss, ...)                # schedule, optimiser, restored state, config.yaml
    trainer.fit(batches, inputs, ...)               # steps, logs, evaluations, checkpoints, stops
    trainer.export(...)                             # model/ for timm, curves.png
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import differences, to_plain, to_yaml
from fracgen.train.cli import StopError, say
from fracgen.train.config import continue_as_begun
from fracgen.train.engine import benchmark, checkpoint, metrics, precision, schedule
from fracgen.train.engine import model as models
from fracgen.train.engine.checks import check_run
from fracgen.train.engine.fit import Callbacks, Ending, Intervals, fit
from fracgen.train.engine.provenance import Training, recipe_of
from fracgen.train.engine.run_folder import CONFIG, MODEL, RunFolder
from fracgen.train.engine.run_speed import RunSpeed
from fracgen.train.engine.settings import ProtocolSettings
from fracgen.train.engine.source_revision import source_revision
from fracgen.train.engine.step_cost import Example, check_batch_norms, check_memory
from fracgen.train.engine.tracking import open_tracker
from fracgen.train.engine.train_step import TrainState, TrainStep, wrap
from fracgen.train.ranks import Ranks

Batches = Callable[[int], Iterator[Any]]
"""From a start step to batches without end, in a generator (which is closed)."""
Inputs = Callable[[int, Any], tuple[Tensor, Tensor]]
"""From step and batch to images (B, 3, H, W) and targets (B, num_classes) on the device."""

S = TypeVar("S", bound=ProtocolSettings)


class Trainer(Generic[S]):
    """One run.

    settings: as the run began, where it goes on; resolved after `set_up`. last: the checkpoint that it goes on from.
    amp: dtype of autocast, None for float32. After `set_up`: state; schedule; config, the settings as plain values;
    fingerprint of the data. scores: step and accuracy of the best weights, empty where a protocol chooses none. They
    are `BestWeights`' to set; every checkpoint holds them.
    """

    def __init__(
        self,
        settings: S,
        folder: RunFolder | None,
        ranks: Ranks,
        *,
        began: float | None = None,
        allow_changes: bool = False,
    ) -> None:
        """Find where the run goes on, and refuse what cannot work before any data is opened.

        folder: None to measure speed, and to write nothing. began: `time.perf_counter()` of the start, if before this.
        allow_changes: go on with other settings than before.
        Raises UsageError for settings that cannot work, and what `RunFolder.checkpoint` raises.
        """
        self.speed = RunSpeed(time.perf_counter() if began is None else began, ranks.device)
        self.folder, self.ranks, self._allow_changes = folder, ranks, allow_changes
        self.last = folder.checkpoint() if folder is not None else None
        if folder is not None and folder.warning and ranks.first:
            say({"warning": folder.warning})
        self.settings = continue_as_begun(settings, self.last.config) if self.last is not None else settings
        self._batch_size = self.settings.loader.batch_size
        self.scores: Mapping[str, float] = {}
        self._done: set[Literal["set_up", "fit"]] = set()
        self._precision = ranks.agree(precision.resolve(self.settings.run.precision, ranks.device))
        self.amp = precision.autocast_dtype(self._precision)
        if precision.is_emulated(self._precision, ranks.device) and ranks.first:
            say({"warning": precision.EMULATED})
        check_run(self.settings, ranks, self._precision)
        self._logger: metrics.MetricLogger | None = None
        self._source = source_revision() if folder is not None and ranks.first else ""
        torch.set_float32_matmul_precision("high")

    def _require(self, call: Literal["set_up", "fit"]) -> None:
        """Raise RuntimeError where `call` has not been made."""
        if call not in self._done:
            raise RuntimeError(f"Trainer: {call}() comes first; the order is Trainer, set_up, fit, export")

    def set_up(
        self,
        model: nn.Module,
        loss: Callable[[Any, Tensor], Tensor],
        *,
        num_samples: int,
        fingerprint: str,
        resolved: Mapping[str, Any],
        example: Example | None = None,
    ) -> None:
        """Make what trains the model, and bring it to where the run goes on. Once.

        loss: a mean over the batch, from the model's output and targets. num_samples: of an epoch. fingerprint: of all
        data that the run begins with. resolved: settings that follow from the data. example: of inputs, if not images.
        Raises UsageError for too little memory, or a folder in use or of another run; DataError for another model's.
        """
        if self._done:
            raise RuntimeError("Trainer: set_up() was called before; a run has one model")
        settings, ranks = self.settings, self.ranks
        self.num_samples, self.fingerprint = num_samples, fingerprint
        self.schedule = schedule.resolve(
            settings.schedule, settings.optim, batch_size=self._batch_size, num_samples=num_samples
        )
        device: Any = ranks.device.type
        self.settings = settings = replace(
            settings,
            schedule=replace(settings.schedule, steps=self.schedule.steps, samples=0, epochs=0.0),
            run=replace(settings.run, device=device, precision=self._precision),
            **resolved,
        )
        self.config, self.model = to_plain(settings), model.to(ranks.device)
        precision.choose_attention(model, self.amp, ranks.device)
        models.checkpoint_activations(model, settings.run, settings.model.name)
        check_batch_norms(model, settings, ranks)
        check_memory(model, settings, ranks, self.amp, example)
        self.state = TrainState(
            model=model,
            optimizer=models.optimizer(model, settings.optim, lr=self.schedule.lr),
            scaler=torch.amp.GradScaler(enabled=self._precision == "fp16"),
            ema=models.moving_average(model, settings.optim.ema),
        )
        lr_schedule = schedule.lr_schedule(self.state.optimizer, self.schedule)
        self._restore()
        self.train_step = TrainStep(
            state=self.state,
            loss=loss,
            network=wrap(model, ranks, compiled=settings.run.compile),
            lr_schedule=lr_schedule,
            amp=self.amp,
            optim=settings.optim,
            run=settings.run,
            ranks=ranks,
        )
        self._done.add("set_up")

    def _restore(self) -> None:
        """Lock the folder, go back to its checkpoint, and write config.yaml."""
        folder, ranks, last = self.folder, self.ranks, self.last
        if folder is None:
            return
        if ranks.first:
            folder.lock()
        if last is not None:
            if not self._allow_changes:
                changed = differences(type(self.settings), last.config, self.config)
                checkpoint.check_same(last, config=changed, data=self.fingerprint, world=ranks.world, path=folder.path)
            self.state.restore(last)
        if ranks.any(ranks.agree(self.state.step) != self.state.step):
            raise UsageError(f"{folder.path}: the processes do not see the same run there; --out must be shared by all")
        if ranks.first:
            folder.write(CONFIG, to_yaml(self.config))
        ranks.wait()

    def describe(self, rows: Mapping[str, str]) -> None:
        """Print the protocol's rows, then model, length and learning rate, on stderr. After `set_up`."""
        self._require("set_up")
        if not self.ranks.first:
            return
        length = schedule.describe(self.schedule, self.settings.optim, self._batch_size, self.num_samples)
        length["steps"] += checkpoint.describe(self.last)
        if self.schedule.is_published and self.ranks.device.type == "cpu" and self.folder is not None:
            length["warning"] = schedule.LONG_ON_CPU
        say({**rows, "model": models.describe(self.settings.model, self.model, self._precision, self.ranks), **length})

    def measure(self, batches: Batches, inputs: Inputs) -> dict[str, float]:
        """Images/s, without a run folder. It trains: the weights are not to be kept. After `set_up`."""
        self._require("set_up")
        return benchmark.measure(batches, inputs, self.train_step, batch_size=self._batch_size, ranks=self.ranks)

    def fit(
        self,
        batches: Batches,
        inputs: Inputs,
        *,
        evaluate: Callable[[], Mapping[str, float]] | None,
        evaluate_every: int,
        stop_after: int = 0,
    ) -> Ending:
        """Train until the end, `stop_after` (in steps; 0: never) or a signal; leaves a checkpoint and curves.png.

        After `set_up`, in a folder. evaluate: called every `evaluate_every` steps and at the end, on every rank; gives
        accuracies to log.
        """
        if self.folder is None:
            raise RuntimeError("Trainer: fit() needs a folder; without one a run is only measured")
        logger = self._logger = self._open_logger()
        run, augment, state = self.settings.run, self.settings.augment, self.state
        iterator: Any = batches(state.step)

        def take_step(step: int) -> Tensor:
            images, targets = inputs(step, next(iterator))
            logger.log_images(step + 1, images, augment.mean, augment.std)
            return self.train_step(step, images, targets)

        def advance() -> None:
            logger.advance(state.step)
            line = self.speed.advance(state.step, steps=self.schedule.steps, batch_size=self._batch_size)
            if line is not None and self.ranks.first:
                logger.write(line)

        callbacks = Callbacks(log=logger.log, save=self.save, evaluate=evaluate, advance=advance)
        intervals = Intervals(
            steps=self.schedule.steps,
            batch_size=self._batch_size,
            stop_after=stop_after,
            log_every=run.log_every,
            checkpoint_every=run.checkpoint_every,
            evaluate_every=evaluate_every,
        )
        ending: Ending = "stopped"
        try:
            ending = fit(state, take_step, callbacks, intervals, self.ranks)
        finally:
            iterator.close()
            logger.close()
            if ending != "finished":
                logger.end(state.step)
        self.speed.end()
        self._done.add("fit")
        self._signal = callbacks.signals[0] if ending == "interrupted" else 0
        logger.draw_curves()
        return ending

    def end_log(self, values: Mapping[str, float] | None = None, figures: Mapping[str, Path] | None = None) -> None:
        """Log the run's results (PNG files by name as pictures), and end its log elsewhere. After `set_up`; once.

        `fit` does it itself for a run that has not come to its last step. Of a run that an earlier process finished,
        this sends what is not there yet.
        """
        self._logger = self._logger or self._open_logger()
        self._logger.end(self.state.step, values, figures)

    def _open_logger(self) -> metrics.MetricLogger:
        self._require("set_up")
        out = self.folder.path if self.folder is not None and self.ranks.first else None
        tracker = open_tracker(self.settings.run, out, {**self.config, "fingerprint": self.fingerprint})
        return metrics.MetricLogger(out, steps=self.schedule.steps, start=self.state.step, tracker=tracker)

    def save(self) -> None:
        """Write last.pt, which a run goes on from. Every rank may call it."""
        self._save(checkpoint.LAST)

    def save_best(self) -> None:
        """Write best.pt: the weights that are evaluated, and no more, for `BestWeights`. Every rank may call it."""
        weights = self.state.eval_model.state_dict()
        self._save(checkpoint.BEST, model=weights, optimizer={}, scaler={}, ema={}, losses=())

    def _save(self, name: str, **changes: Any) -> None:
        self._require("set_up")
        state = self.state.to_checkpoint(config=self.config, data=self.fingerprint, world=self.ranks.world)
        if self.folder is not None and self.ranks.first:
            checkpoint.save(replace(state, scores=self.scores, **changes), self.folder / name)

    def export(
        self, training: Training, *, model: nn.Module | None = None, crop: float = 1.0, class_names: Sequence[str] = ()
    ) -> str:
        """Write model/ for timm, of the model or of another, and return its path. After `fit`. crop: of evaluation."""
        self._require("fit")
        assert self.folder is not None, "fit needs one"
        settings = self.settings
        models.export(
            model or self.state.eval_model,
            self.folder / MODEL,
            size=settings.augment.size,
            mean=settings.augment.mean,
            std=settings.augment.std,
            tag=f"fracgen_{self.fingerprint[:8]}",
            options=settings.model.options,
            crop=crop,
            squeeze=getattr(settings.loader, "squeeze", False),
            class_names=class_names,
            training=replace(training, recipe=recipe_of(type(settings), self.config), source=self._source),
        )
        return str(self.folder / MODEL)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are taken. After `set_up`."""
        self._require("set_up")
        return self.state.step >= self.schedule.steps

    def outcome(self) -> dict[str, Any]:
        """What the run took: steps, samples, images per second after the first step, seconds since the start."""
        self._require("fit")
        return self.speed.outcome(self.state.step, batch_size=self._batch_size)

    def raise_if_interrupted(self) -> None:
        """Raise StopError where a signal ended the run before its last step. After `fit`."""
        self._require("fit")
        if self._signal:
            place = f"stopped at step {self.state.step} of {self.schedule.steps}"
            raise StopError(f"{place}; the same command goes on", self._signal)
