"""What a retailer of some size needs by a deadline: workers, minutes, memory, disk and money, from measured rates.

Rates come from `python -m benchmarks.scale --rates`: what each stage took at two sizes or more on one machine. Between
the sizes they are interpolated linearly; beyond the largest the last line is continued.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forecast_platform.engines.sagemaker.cost import PRICES

# Stages, as benchmarks.scale measures them: what a history takes once, a training now and then, and a week each week.
HISTORY = (IMPORT_HISTORY, CLEAN_HISTORY) = ("import_history", "clean_history")
TRAIN = "train"
WEEK = (IMPORT_WEEK, CLEAN_WEEK, SCORE_WEEK, FIND_MODEL, PREDICT, PUBLISH, REPORT) = (
    "import_week",
    "clean_week",
    "score_week",
    "find_model",
    "predict",
    "publish",
    "report",
)
MEASURES = ("wall_s", "cpu_s", "memory_gb", "disk_gb")
RATES = "rates.json"
SHIPPED = Path(__file__).with_name(RATES)

EngineName = Literal["local", "spark", "sagemaker-container"]
SHARED = PREDICT  # the stage that is shared out among the workers of any engine; one process does all others
UNIT: dict[EngineName, str] = {"local": "worker", "spark": "executor", "sagemaker-container": "instance"}
MOST: dict[EngineName, int] = {"local": 256, "spark": 1000, "sagemaker-container": 100}
START_S: dict[EngineName, float] = {"local": 0, "spark": 180, "sagemaker-container": 360}
SPARK_CPU = 1.5  # CPU seconds counted on Spark for one in a local process
EXECUTOR_CORES, EXECUTOR_GB = 4, 16
# USD an hour, EMR Serverless (x86), us-east-1, as known in January 2026.
SPARK_CORE_USD, SPARK_GB_USD = 0.052624, 0.0057785
_CORES = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16}
_GB_A_CORE = {"c": 2, "m": 4, "r": 8}


class PlanRefused(ValueError):
    """The request makes no sense, or there are no figures to compute with; the message says what to give instead."""


@dataclass(frozen=True)
class Rates:
    """What stages took on one machine.

    Attributes:
        cpu: the processor's name. cores: how many. date, commit: of the measurement.
        weeks: of history that the measured retailers had. settings: of the home, where not the defaults.
        busy: others were at work on the machine, so that stages are taken to last as long as their CPU seconds.
        stages: name -> measure of MEASURES -> (series, value) at each size measured, two or more, ascending.
        start_s: seconds a program takes to start.
    """

    cpu: str
    cores: int
    date: str
    commit: str
    weeks: int
    settings: str
    busy: bool
    stages: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    start_s: float

    @classmethod
    def read(cls, path: Path) -> Rates:
        """Raises PlanRefused where the file is not what --rates writes."""
        try:
            rates = cls(**json.loads(path.read_text()))
            if lacking := [s for s in (*HISTORY, TRAIN, *WEEK) if any(len(rates.stages[s][m]) < 2 for m in MEASURES)]:
                raise KeyError(lacking[0])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlanRefused(
                f"{path} holds no whole rates ({error!r}); write it anew: python -m benchmarks.scale --rates {path}"
            ) from None
        return rates

    @property
    def largest(self) -> float:
        """Series of the largest size measured in every stage."""
        return min(points[-1][0] for stage in self.stages.values() for points in stage.values())

    def at(self, stage: str, measure: str, series: float) -> float:
        """What a stage takes for so many series of `weeks` weeks. Below the smallest size measured it takes no more
        than that; beyond the largest it grows on as before, and does not shrink."""
        points = self.stages[stage][measure]
        place = next((i for i, (size, _) in enumerate(points[1:-1], 1) if series < size), len(points) - 1)
        (low, before), (high, after) = points[place - 1], points[place]
        slope = (after - before) / (high - low)
        if series > high:
            return after + max(slope, 0) * (series - high)
        if series < low:
            return min(max(before - slope * (low - series), 0), before)
        return before + slope * (series - low)


@dataclass(frozen=True)
class Wanted:
    """A weekly run of so many series with so many weeks of history, published by a deadline in seconds after landing.

    Raises:
        PlanRefused: there can be no such thing.
    """

    series: int
    weeks: int
    deadline_s: float

    def __post_init__(self) -> None:
        if not 1 <= self.series <= 10**9:
            raise PlanRefused(f"{self.series:,} series can't be planned for; give a number from 1 to 1,000,000,000")
        if not 1 <= self.weeks <= 5_000:
            raise PlanRefused(f"{self.weeks:,} weeks of history can't be; give a number from 1 to 5,000")
        if self.deadline_s <= 0:
            raise PlanRefused("the deadline has to leave some time; give one such as 30m or 2h")


@dataclass(frozen=True)
class Plan:
    """What is needed.

    Attributes:
        number: of `unit`s: the fewest that keep the deadline, or where none do, the most that were considered; on one
            machine those it has.
        keeps: whether the deadline is kept in a week without training. keeps_training: and in one with.
        minutes: of a week without training, from landing to published. stages: its parts.
        training_minutes: more in a week with training. history_minutes: once, to bring the history in.
        memory_gb: of the machine that runs the graph. disk_gb: once the history is in. disk_gb_a_week: more each week.
        usd_a_week: of what is hired for the stages that are shared out, and a training's part.
        told: what would keep a deadline that is missed, and what else to mind.
        assumptions: what the figures rest on.
    """

    engine: EngineName
    series: int
    weeks: int
    deadline_minutes: float
    number: int
    unit: str
    keeps: bool
    keeps_training: bool
    minutes: float
    stages: Mapping[str, float]
    training_minutes: float
    history_minutes: float
    memory_gb: float
    disk_gb: float
    disk_gb_a_week: float
    usd_a_week: float
    told: tuple[str, ...]
    assumptions: tuple[str, ...]


def deadline_seconds(text: str) -> float:
    """The seconds of a text such as "30m", "2h", "90s" or "1h30m".

    Raises:
        PlanRefused: it is none of these.
    """
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower())
    if not found or not text.strip():
        raise PlanRefused(f"{text!r} is no deadline; write 30m, 2h, 1h30m or 90s")
    return sum(float(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True) if part)


def plan(
    rates: Rates,
    wanted: Wanted,
    engine: EngineName = "local",
    workers: int = 1,
    instance: str = "ml.c5.2xlarge",
    prices: Mapping[str, float] = PRICES,
    retrain_every_weeks: int = 4,
    training_series: int = 5_000,
    memory_gb: float = 4,
    has_gb: float | None = None,
) -> Plan:
    """What keeps the deadline, and what it costs.

    Args:
        workers: of this machine; the number of another engine's is what the plan finds.
        instance: of batch transforms and training on SageMaker. prices: USD an hour, by instance.
        retrain_every_weeks: a training's cost is shared by so many weeks.
        training_series: what a model is trained on, at most. memory_gb: what a run keeps to, by the setting.
        has_gb: memory of this machine, where it is known.

    Raises:
        PlanRefused: the instance's price or size is not known.
    """
    need = _Need(rates, wanted, engine, training_series, memory_gb)
    lanes, usd = {"local": 1, "spark": EXECUTOR_CORES}.get(engine, 1), 0.0
    if engine == "sagemaker-container":
        lanes = _cores(instance)
        if instance not in prices:
            raise PlanRefused(
                f"the price of {instance} is not known; set FORECAST_PRICES, or use one of {_few(prices)}"
            )

    def keeps(number: int, more: float = 0) -> bool:
        return need.seconds(number * lanes) + more <= wanted.deadline_s

    fewest = next((n for n in range(1, MOST[engine] + 1) if keeps(n)), None)
    number = workers if engine == "local" else fewest or MOST[engine]
    stages = need.stages(number * lanes)
    seconds = need.seconds(number * lanes)
    hired_s = START_S[engine] + stages[SHARED]
    training_s = rates.at(TRAIN, "wall_s", need.trained)
    if engine == "spark":
        an_hour = EXECUTOR_CORES * SPARK_CORE_USD + EXECUTOR_GB * SPARK_GB_USD
        usd = (number + 1) * an_hour * hired_s / 3600  # and the driver
    elif engine == "sagemaker-container":
        training_s += START_S[engine]
        usd = prices[instance] * (number * hired_s + training_s / retrain_every_weeks) / 3600
    warnings = []
    if not keeps(number):
        warnings.append(need.missed(fewest, number * lanes))
    memory = max(need.memory_gb(name) for name in (*HISTORY, TRAIN, *WEEK))
    if engine == "local" and has_gb is not None and memory > has_gb:
        warnings.append(f"this machine has {has_gb:.0f} GB of memory; about {memory:.1f} are needed")
    hired_gb = max(need.memory_gb(name) for name in (TRAIN, SHARED))
    if engine == "sagemaker-container" and hired_gb > (has := _memory_gb(instance)):
        warnings.append(f"{instance} has {has} GB of memory; its jobs take {hired_gb:.1f}: FORECAST_TRANSFORM_INSTANCE")
    return Plan(
        engine=engine,
        series=wanted.series,
        weeks=wanted.weeks,
        deadline_minutes=wanted.deadline_s / 60,
        number=number,
        unit=UNIT[engine],
        keeps=keeps(number),
        keeps_training=keeps(number, training_s),
        minutes=seconds / 60,
        stages={name: s / 60 for name, s in stages.items()},
        training_minutes=training_s / 60,
        history_minutes=sum(need.of(name, number * lanes) for name in HISTORY) / 60,
        memory_gb=memory,
        disk_gb=sum(rates.at(name, "disk_gb", need.by_rows) for name in HISTORY),
        disk_gb_a_week=sum(rates.at(name, "disk_gb", wanted.series) for name in WEEK),
        usd_a_week=usd,
        told=tuple(warnings),
        assumptions=need.assumptions(instance),
    )


@dataclass(frozen=True)
class _Need:
    rates: Rates
    wanted: Wanted
    engine: EngineName
    training_series: int
    kept_to_gb: float

    @property
    def by_rows(self) -> float:
        """The number of series of the measured weeks that have as many rows."""
        return self.wanted.series * self.wanted.weeks / self.rates.weeks

    @property
    def grown(self) -> float:
        """The number of series, or more where the history is longer than measured; a shorter one is no help."""
        return max(self.wanted.series, self.by_rows)

    @property
    def trained(self) -> float:
        """The number of series that training takes the time of. A model is trained on a sample, so that training does
        not grow beyond it, or beyond the largest size measured."""
        return min(self.grown, max(self.training_series, self.rates.largest))

    def memory_gb(self, stage: str) -> float:
        """Memory of a stage. Beyond the largest size measured it is at most what was measured there, or what a run is
        set to keep to, whichever is more."""
        size = self.trained if stage == TRAIN else self.grown
        most = max(self.rates.at(stage, "memory_gb", self.rates.largest), self.kept_to_gb)
        return min(self.rates.at(stage, "memory_gb", size), most)

    def of(self, stage: str, lanes: int) -> float:
        """Seconds of a stage. The shared one is divided among `lanes` processes."""
        size = self.by_rows if stage in HISTORY else self.grown
        wall_s = self.rates.at(stage, "wall_s", size)
        if stage != SHARED:
            return wall_s
        work_s = max(self.rates.at(stage, "cpu_s", size), wall_s)
        return work_s * (SPARK_CPU if self.engine == "spark" else 1) / lanes

    def stages(self, lanes: int) -> dict[str, float]:
        return {name: self.of(name, lanes) for name in WEEK}

    def seconds(self, lanes: int) -> float:
        """From landing to published."""
        return self.rates.start_s + START_S[self.engine] + sum(self.stages(lanes).values())

    def missed(self, fewest: int | None, lanes: int) -> str:
        """One sentence: what would keep the deadline, or why nothing does."""
        deadline, unit = f"{self.wanted.deadline_s / 60:g} minutes", UNIT[self.engine]
        if fewest:
            return (
                f"{fewest} workers would keep {deadline}: a machine of as many cores, FORECAST_WORKERS={fewest}, or "
                "several by --engine spark or sagemaker-container"
            )
        alone = {name: s for name, s in self.stages(lanes).items() if name != SHARED}
        longest = max(alone, key=lambda name: alone[name])
        rest_s = self.rates.start_s + START_S[self.engine] + sum(alone.values())
        if rest_s >= self.wanted.deadline_s:
            why = (
                f"no number of {unit}s keeps {deadline}: {rest_s / 60:.1f} minutes are not shared out, most of them "
                f"{longest} ({alone[longest] / 60:.1f})"
            )
        else:
            why = f"{MOST[self.engine]} {unit}s, the most considered, do not keep {deadline}"
        return f"{why}; give it more time, or split the retailer into homes"

    def assumptions(self, instance: str) -> tuple[str, ...]:
        r = self.rates
        sizes = sorted({size for stage in r.stages.values() for size, _ in stage["wall_s"]})
        lines = [
            f"rates of {r.cores} cores of {r.cpu}, {r.date}, commit {r.commit}, measured at "
            f"{', '.join(f'{size:,.0f}' for size in sizes)} series of {r.weeks} weeks; yours may be faster or slower",
            *([f"measured with {r.settings}"] if r.settings else []),
            *(["the machine was busy: stages last as long as their CPU seconds"] if r.busy else []),
            "a history is brought in by its rows; "
            + (
                f"one of {self.wanted.weeks} weeks, longer than measured, counts as more series in every stage"
                if self.wanted.weeks > r.weeks
                else "all else goes by series, as if their histories were as long as those measured"
            ),
            "the files of the asset exports aside",
            f"{SHARED} is shared out evenly, which far more {UNIT[self.engine]}s than measured will not quite reach",
        ]
        if self.wanted.series > r.largest:
            lines.append(
                f"beyond {r.largest:,.0f} series nothing was measured: the last rates are taken to go on, training to "
                f"stay with FORECAST_TRAINING_SERIES, and memory with FORECAST_MEMORY_GB, {self.kept_to_gb:g}"
            )
        if self.engine == "spark":
            lines.append(
                f"executors of {EXECUTOR_CORES} cores and {EXECUTOR_GB} GB, {SPARK_CPU:g} times the CPU of a process, "
                f"{START_S['spark'] / 60:.0f} minutes to start; EMR Serverless in us-east-1, {SPARK_CORE_USD} USD a "
                f"core and {SPARK_GB_USD} a GB an hour, one more executor as driver; other clusters bill otherwise"
            )
        if self.engine == "sagemaker-container":
            lines.append(
                f"{instance} on demand in us-east-1, a core of it as fast as one measured, "
                f"{START_S[self.engine] / 60:.0f} billed minutes to start; training on one; the machine that runs the "
                "graph, storage and requests come on top"
            )
        return tuple(lines)


def _cores(instance: str) -> int:
    size = instance.rpartition(".")[2]
    if size not in _CORES:
        raise PlanRefused(f"how many cores {instance} has is not known; use a size of {', '.join(_CORES)}")
    return _CORES[size]


def _memory_gb(instance: str) -> int:
    """Memory of an instance of the families in PRICES, or 2 GB a core."""
    return _cores(instance) * _GB_A_CORE.get(instance.split(".")[1][0], 2)


def _few(prices: Mapping[str, Any]) -> str:
    return ", ".join(sorted(prices)[:4]) + " ..."
