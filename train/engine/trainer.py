"""The trainer of every protocol: a run set up in order, taken to its end, and kept in its folder.

A protocol opens its data and makes its model between the calls, and hands over iterables and functions:

    trainer = Trainer(settings, folder, ranks)      # where the run goes on; what cannot work is refused
    trainer.set_up(model, loss, ...)                # schedule, optimiser, restored state, config.yaml
    trainer.fit(batches, inputs, ...)               # steps, logs, evaluations, checkpoints, stops
    trainer.export(...)                             # model/ for timm, curves.png
"""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import differences, to_plain, to_yaml
from fracgen.train.cli import StopError, say
from fracgen.train.config import continue_as_begun
from fracgen.train.engine import benchmark, checkpoint, metrics, schedule
from fracgen.train.engine import model as models
from fracgen.train.engine.fit import Callbacks, Ending, Intervals, fit
from fracgen.train.engine.run_folder import CONFIG, MODEL, RunFolder
from fracgen.train.engine.train_step import TrainState, TrainStep, wrap
from fracgen.train.ranks import Ranks

Batches = Callable[[int], Iterator[Any]]
"""From a start step to batches without end, in a generator (which is closed)."""
Inputs = Callable[[int, Any], tuple[Tensor, Tensor]]
"""From step and batch to images (B, 3, H, W) and targets (B, num_classes) on the device."""
_RATE_SECONDS, _RATE_STEPS = 5.0, 3
"""After the first step, so long at least before the length of the run is estimated."""


S = TypeVar("S")
"""A protocol's settings: a dataclass with the groups model, optim, schedule, augment, loader and run."""


class Trainer(Generic[S]):
    """One run.

    settings: as the run began, where it goes on; resolved after `set_up`. last: the checkpoint that it goes on from.
    amp: dtype of autocast, None for float32. After `set_up`: state; schedule; config, the settings as plain values;
    fingerprint of the data. scores: best accuracy and its step, which a protocol that chooses weights keeps here.
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
        self._began = time.perf_counter() if began is None else began
        self.folder, self.ranks, self._allow_changes = folder, ranks, allow_changes
        self.last = folder.checkpoint() if folder is not None else None
        self.settings = continue_as_begun(settings, self.last.config) if self.last is not None else settings
        self.scores: Mapping[str, float] = {}
        groups = self._groups
        self._precision = models.resolve_precision(groups.run.precision, ranks.device)
        self.amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        self._first_step: tuple[int, float] | None = None
        self._rate_shown = False
        self._signal = 0
        if groups.run.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UsageError("--tensorboard needs TensorBoard: pip install tensorboard")
        models.optimizer(nn.Linear(1, 1), groups.optim, lr=1.0)
        self._resolve_schedule(num_samples=1)
        torch.set_float32_matmul_precision("high")

    @property
    def _groups(self) -> Any:
        """The settings, whose groups every protocol has."""
        return self.settings

    @property
    def _batch_size(self) -> int:
        size: int = self._groups.loader.batch_size
        return size

    def _resolve_schedule(self, num_samples: int) -> schedule.ResolvedSchedule:
        groups = self._groups
        return schedule.resolve(groups.schedule, groups.optim, batch_size=self._batch_size, num_samples=num_samples)

    def set_up(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        num_samples: int,
        fingerprint: str,
        resolved: Mapping[str, Any],
    ) -> None:
        """Make what trains the model, and bring it to where the run goes on.

        loss: a mean over the batch, from logits and targets. num_samples: of an epoch. fingerprint: of all data that
        the run begins with. resolved: settings that follow from the data.
        Raises UsageError where the folder holds another run or is in use, DataError for a checkpoint of another model.
        """
        settings, ranks = self._groups, self.ranks
        self.num_samples, self.fingerprint = num_samples, fingerprint
        self.schedule = self._resolve_schedule(num_samples)
        self._published = schedule.is_published_length(settings.schedule, self.schedule, settings.loader.batch_size)
        self.settings = settings = replace(
            settings,
            schedule=replace(settings.schedule, steps=self.schedule.steps, samples=0, epochs=0.0),
            run=replace(settings.run, device=ranks.device.type, precision=self._precision),
            **resolved,
        )
        self.config = to_plain(settings)
        self.model = model.to(ranks.device)
        optimizer = models.optimizer(model, settings.optim, lr=self.schedule.lr)
        scaler = torch.amp.GradScaler(enabled=self._precision == "fp16")
        self.state = TrainState(model=model, optimizer=optimizer, scaler=scaler)
        lr_schedule = schedule.cosine(optimizer, self.schedule)
        self._restore()
        self.train_step = TrainStep(
            state=self.state,
            loss=loss,
            network=wrap(model, ranks, compiled=settings.run.compile),
            lr_schedule=lr_schedule,
            amp=self.amp,
            clip=settings.optim.clip,
            seed=settings.run.seed,
            ranks=ranks,
        )

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
        """Print the protocol's rows, then model, length and learning rate, on stderr."""
        if not self.ranks.first:
            return
        settings, batch_size = self._groups, self._batch_size
        length = schedule.describe(self.schedule, batch_size, self.num_samples) + checkpoint.describe(self.last)
        warning = self._published and self.ranks.device.type == "cpu" and self.folder is not None
        say(
            {
                **rows,
                "model": models.describe(settings.model, self.model, self._precision, self.ranks),
                "steps": length,
                "rate": schedule.describe_rate(self.schedule, settings.optim, batch_size),
                **({"warning": schedule.LONG_ON_CPU} if warning else {}),
            }
        )

    def measure(self, batches: Batches, inputs: Inputs) -> dict[str, float]:
        """Images/s, without a run folder. It trains: the weights are not to be kept."""
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

        evaluate: called every `evaluate_every` steps and at the end, on every rank; gives accuracies to log.
        """
        assert self.folder is not None, "a run is kept in a folder"
        run, state, out = self._groups.run, self.state, self.folder.path if self.ranks.first else None
        logger = metrics.MetricLogger(out, steps=self.schedule.steps, start=state.step, tensorboard=run.tensorboard)
        iterator: Any = batches(state.step)

        def advance() -> None:
            logger.advance()
            if not self._rate_shown:
                self._show_rate(logger)

        callbacks = Callbacks(log=logger.log, save=self.save, evaluate=evaluate, advance=advance)
        intervals = Intervals(
            steps=self.schedule.steps,
            batch_size=self._batch_size,
            stop_after=stop_after,
            log_every=run.log_every,
            checkpoint_every=run.checkpoint_every,
            evaluate_every=evaluate_every,
        )
        try:
            ending = fit(
                state,
                lambda step: self.train_step(step, *inputs(step, next(iterator))),
                callbacks,
                intervals,
                self.ranks,
            )
        finally:
            iterator.close()
            logger.close()
        self._trained = time.perf_counter()
        self._signal = callbacks.signals[0] if ending == "interrupted" else 0
        if self.ranks.first:
            metrics.draw_curves(self.folder / metrics.METRICS, self.folder / metrics.CURVES)
        return ending

    def _show_rate(self, logger: metrics.MetricLogger) -> None:
        """Print when the first step is done and, a little later, how long the run will take."""
        step = self.state.step
        if self._first_step is None:
            self._wait_for_device()
            self._first_step = step, time.perf_counter()
            if self.ranks.first:
                logger.write(f"{'first':<9} step after {self._first_step[1] - self._began:.1f} s")
            return
        steps, seconds = step - self._first_step[0], time.perf_counter() - self._first_step[1]
        if steps >= _RATE_STEPS and seconds >= _RATE_SECONDS:
            self._wait_for_device()
            seconds_per_step = (time.perf_counter() - self._first_step[1]) / steps
            self._rate_shown = True
            if self.ranks.first:
                rate = self._batch_size / seconds_per_step
                left = schedule.describe_seconds((self.schedule.steps - step) * seconds_per_step)
                logger.write(f"{'length':<9} about {left} at this rate ({rate:,.0f} images/s)")

    def _wait_for_device(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)

    def save(self, name: str = checkpoint.LAST) -> None:
        """Write a checkpoint, with the best scores so far; best.pt holds no optimiser. Every rank may call it."""
        if self.folder is None or not self.ranks.first:
            return
        state = self.state.to_checkpoint(config=self.config, data=self.fingerprint, world=self.ranks.world)
        state = replace(state, scores=self.scores)
        if name == checkpoint.BEST:
            state = replace(state, optimizer={}, scaler={}, losses=())
        checkpoint.save(state, self.folder / name)

    def export(self, *, crop: float = 1.0, class_names: Sequence[str] = ()) -> str:
        """Write model/ for timm, and return its path. crop: share of the shorter side that evaluation shows."""
        assert self.folder is not None
        settings = self._groups
        models.export(
            self.model,
            self.folder / MODEL,
            size=settings.augment.size,
            mean=settings.augment.mean,
            std=settings.augment.std,
            tag=f"fracgen_{self.fingerprint[:8]}",
            options=settings.model.options,
            crop=crop,
            class_names=[] if _are_numbers(class_names) else class_names,
        )
        return str(self.folder / MODEL)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are taken."""
        return self.state.step >= self.schedule.steps

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(time.perf_counter() - self._began, 1)

    def outcome(self) -> dict[str, Any]:
        """What the run took: steps, samples, images per second after the first step, seconds since the start."""
        batch_size, step = self._batch_size, self.state.step
        first_step, clock = self._first_step or (step, 0.0)
        rate = (step - first_step) * batch_size / (self._trained - clock)
        return {
            "steps": step,
            "samples": step * batch_size,
            **({"images_per_second": round(rate, 1)} if rate else {}),
            "seconds": self.seconds,
        }

    def raise_if_interrupted(self) -> None:
        """Raises StopError where a signal ended the run before its last step."""
        if self._signal:
            raise StopError(
                f"stopped at step {self.state.step} of {self.schedule.steps}; the same command goes on", self._signal
            )


def _are_numbers(class_names: Sequence[str]) -> bool:
    """Whether the names say no more than the labels."""
    return all(name.isdecimal() and int(name) == label for label, name in enumerate(class_names))
