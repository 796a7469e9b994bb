"""Settings that cannot work, refused before any data is opened."""

from dataclasses import replace

from torch import nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine import cuda_graph, schedule
from fracgen.train.engine import model as models
from fracgen.train.engine.settings import Precision, ProtocolSettings
from fracgen.train.ranks import Ranks


def check_run(settings: ProtocolSettings, ranks: Ranks, precision: Precision) -> None:
    """Raises UsageError for settings of optimiser, schedule and machine that cannot work here.

    precision: as it is resolved.
    """
    run, batch_size = settings.run, settings.loader.batch_size
    if run.cuda_graph:
        cuda_graph.check(ranks, precision, run)
    on_each = batch_size // ranks.world
    if on_each % run.accumulate:
        raise UsageError(
            f"run.accumulate {run.accumulate}: the batch of {on_each} on each process has no so many equal parts; give "
            f"a divisor of {on_each}"
        )
    # both only check their settings; what they make is dropped, and one layer has none below it
    models.optimizer(nn.Linear(1, 1), replace(settings.optim, layer_decay=1.0), lr=1.0)
    schedule.resolve(settings.schedule, settings.optim, batch_size=batch_size, num_samples=1)
