"""The engine of a Spark cluster: it does what LocalEngine does, with shards worked on by Spark's workers.

Steps, sums and files are the same, and so are the forecasts, to the last bit. Driver and workers share a folder, the
platform's home. What a task does may happen twice: Spark tries a task again when its worker dies, and may run two
attempts side by side. So a file is whole or not there, and holds the same whichever attempt wrote it.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forecast_platform.engines.base import EngineError, source_digest
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import BatchError
from forecast_platform.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Errors of the work itself: another try would end in the same one.
_FINAL = (ValueError, BatchError, EngineError)
_ARCHIVE = "environment"  # the folder that workers unpack it to
_OUTCOME = "number long, outcome binary"
# The JVMs pass on a few bytes a task: to compile that a second time, better, costs more than it gains.
_JAVA = "-XX:TieredStopAtLevel=1"


class SparkEngine(LocalEngine):
    """Shards on the workers of a Spark cluster; models are trained here. See Engine.

    Args:
        settings: the cluster's; models lie in the home.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.models)
        self.run = Cluster(settings)


class Cluster:
    """Maps attempts to outcomes, see `over_shards`, on Spark's workers, each as a task.

    It takes the process's session where there is one, as in a notebook or a job that spark-submit started. Else it
    starts one at first use, which ends with the process.

    Args:
        settings: those of Spark.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Outcomes in order, when all of them are there; they are small. What is mapped must be importable by workers.

        Raises:
            EngineError: there is no cluster, its workers have another version of the platform, or Spark gave up on a
                task.
            ValueError, BatchError: an item's own; it is not tried again.
        """
        if not items:
            return
        spark = self.session()
        from pyspark import cloudpickle
        from pyspark.errors import PySparkException

        # Pickled together, so that what items share, such as sums, is in it once. Spark sends it once to each machine.
        tasks = cloudpickle.dumps((work, list(items)))
        # One row, one partition, one item: what fails is tried again without its neighbours.
        numbers = spark.range(0, len(items), 1, len(items))
        try:
            rows = numbers.mapInArrow(functools.partial(_worked, source_digest(), tasks), _OUTCOME).collect()
        except PySparkException as error:
            raise EngineError(f"Spark gave up on a shard: {error}") from error
        for row in sorted(rows, key=lambda row: row.number):
            outcome = pickle.loads(row.outcome)  # noqa: S301  # of our own workers
            if isinstance(outcome, _FINAL):
                raise outcome
            yield outcome

    def session(self) -> SparkSession:
        """The process's session.

        Raises:
            EngineError: pyspark or Java is missing, or the cluster can't be reached.
        """
        try:
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise EngineError('engine spark needs pyspark: pip install "forecast-platform[spark]"') from error
        if active := SparkSession.getActiveSession():
            return active
        builder = SparkSession.builder.appName("forecast")
        if master := self._settings.spark_master:
            builder = builder.master(master)
            for name, value in self.configuration().items():
                builder = builder.config(name, value)
            archive = self._settings.spark_archive
            os.environ["PYSPARK_PYTHON"] = f"./{_ARCHIVE}/bin/python" if archive else sys.executable
        try:
            return builder.getOrCreate()
        except (PySparkException, OSError) as error:
            raise EngineError(f"Spark does not start at {master} (it needs Java 17 here): {error}") from error

    def about(self) -> str:
        """The cluster in a line, after a task on it. Raises what a mapping raises."""
        [python] = self(_python, [None])
        spark = self.session()
        where = f"Spark {spark.version} at {spark.sparkContext.master}"
        return f"{where}, whose workers have this platform and Python {python}"

    def configuration(self) -> dict[str, str]:
        """Spark's configuration: what the work needs, overridden by the settings."""
        needed = {"spark.ui.showConsoleProgress": "false", "spark.executorEnv.OMP_NUM_THREADS": "1"}
        if self._settings.spark_master.startswith("local"):  # a cluster has options of its own
            needed |= {f"spark.{of}.defaultJavaOptions": _JAVA for of in ("driver", "executor")}
        if self._settings.spark_archive:
            needed["spark.archives"] = f"{self._settings.spark_archive}#{_ARCHIVE}"
        else:
            needed["spark.executorEnv.PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        return needed | self._settings.spark_conf


def _python(_: None) -> str:
    return platform.python_version()


def _worked(source: str, tasks: bytes, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The outcomes of the tasks of these numbers, on a worker. `source` is the driver's."""
    # pyspark looks for garbage after each task, among all that was ever imported: most of what a small task took.
    gc.freeze()
    for batch in batches:
        for number in batch.column("id").to_pylist():
            try:
                if source_digest() != source:
                    raise EngineError(
                        "Spark's workers have another version of the platform; give them this one, as by make "
                        "spark-archive"
                    )
                work, items = pickle.loads(tasks)  # noqa: S301  # of our own driver
                outcome = work(items[number])
            except _FINAL as error:
                outcome = error
            yield pa.RecordBatch.from_pydict({"number": [number], "outcome": [pickle.dumps(outcome)]})
