"""The engine of a Spark cluster: the shards of LocalEngine, each a task of Spark's workers.

Spark is a way to run attempts at shards (history/shards.Run), and nothing else: the step, the sums and the files are
those of LocalEngine, so are the forecasts, to the last bit. Driver and workers share a folder, the platform's home.

What a task does may happen twice: Spark tries a task again when its worker dies, and may run two attempts at one side
by side. Files are whole or not there and named by what decides them, so the second attempt changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forecast_platform.engines.base import Asked, EngineError, Shard, predict_here
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.history.shards import Run
from forecast_platform.models.candidate import Progress
from forecast_platform.models.trained import TrainedModel, code_version
from forecast_platform.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Errors of what is worked on: another try would say the same.
_FINAL = (ValueError, BatchError, EngineError)
_ARCHIVE = "environment"  # the folder that workers unpack it to
_OUTCOME = "number long, outcome binary"


@contextlib.contextmanager
def session(settings: Settings) -> Iterator[SparkSession]:
    """The process's Spark session, as notebooks and spark-submit have one, else a new one for as long as it is needed.

    Raises:
        EngineError: pyspark or Java is missing, or the cluster can't be reached.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise EngineError("engine spark needs pyspark: pip install forecast-platform[spark]") from error
    if active := SparkSession.getActiveSession():
        yield active
        return
    builder = SparkSession.builder.appName("forecast").master(settings.spark_master)
    for name, value in configuration(settings).items():
        builder = builder.config(name, value)
    os.environ["PYSPARK_PYTHON"] = f"./{_ARCHIVE}/bin/python" if settings.spark_archive else sys.executable
    try:
        made = builder.getOrCreate()
    except (PySparkException, OSError) as error:
        raise EngineError(f"Spark does not start at {settings.spark_master}: {error}; it needs Java 17") from error
    try:
        yield made
    finally:
        made.stop()


def configuration(settings: Settings) -> dict[str, str]:
    """What Spark is told: what the work asks for, over it what the settings say."""
    needed = {"spark.ui.showConsoleProgress": "false", "spark.executorEnv.OMP_NUM_THREADS": "1"}
    if settings.spark_archive:
        needed["spark.archives"] = f"{settings.spark_archive}#{_ARCHIVE}"
    else:
        needed["spark.executorEnv.PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return needed | settings.spark_conf


class SparkEngine(LocalEngine):
    """Shards on the workers of a Spark cluster; models are trained here. See Engine.

    Args:
        settings: the cluster's; models lie in the home, which driver and workers share.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.models)
        self._settings = settings

    def predict(
        self, model: TrainedModel, shards: Sequence[Shard], folder: Path, asked: Asked, progress: Progress | None = None
    ) -> tuple[Predictions, tuple[str, ...]]:
        """See Engine.predict. A single shard is forecast here: it would keep one worker busy, and the others waiting.

        Raises:
            EngineError: the cluster can't be reached, or gave up on a shard.
        """
        if len(shards) < 2:
            return predict_here(model, shards, folder, asked, progress)
        with session(self._settings) as spark:
            return predict_here(model, shards, folder, asked, progress, on_workers(spark))


def on_workers(spark: SparkSession) -> Run:
    """Like `map`, on Spark's workers; each item is a task. What it maps must be importable there.

    Outcomes come when all of them are there; they are small. The mapping raises EngineError when workers have another
    version of the platform or Spark gave up on a task, and the ValueError or BatchError that a task raised, which is
    not tried again.
    """
    from pyspark import cloudpickle
    from pyspark.errors import PySparkException

    def run(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if not items:
            return
        tasks = [cloudpickle.dumps((work, item)) for item in items]
        # One row, one partition, one item: what fails is tried again without its neighbours.
        numbers = spark.range(0, len(tasks), 1, len(tasks))
        try:
            rows = numbers.mapInArrow(functools.partial(_worked, code_version(), tasks), _OUTCOME).collect()
        except PySparkException as error:
            raise EngineError(f"Spark gave up on a shard: {error}") from error
        for row in sorted(rows, key=lambda row: row.number):
            outcome = pickle.loads(row.outcome)  # noqa: S301  # of our own workers
            if isinstance(outcome, _FINAL):
                raise outcome
            yield outcome

    return run


def _worked(code: str, tasks: Sequence[bytes], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The outcomes of the tasks of these numbers, on a worker. `code` is the driver's version of the platform."""
    for batch in batches:
        for number in batch.column("id").to_pylist():
            try:
                if code_version() != code:
                    raise EngineError(
                        f"Spark's workers have version {code_version()} of the platform, this is {code}; give them this "
                        "one: make spark-archive"
                    )
                work, item = pickle.loads(tasks[number])  # noqa: S301  # of our own driver
                outcome = work(item)
            except _FINAL as error:
                outcome = error
            yield pa.RecordBatch.from_pydict({"number": [number], "outcome": [pickle.dumps(outcome)]})
