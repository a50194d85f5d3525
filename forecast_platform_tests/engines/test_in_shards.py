"""A retailer too large for one panel: predicted in shards from its rows on, in processes, killed and taken up again."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from forecast_platform import demo
from forecast_platform.engines.base import Asked, EngineError, opened
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import Predictions
from forecast_platform.engines.workers import FEWEST, Workers, series_at_once, worker_count
from forecast_platform.history.covariates import Declarations
from forecast_platform.history.panel import Panel
from forecast_platform.history.reading import KnownRows, Meaning, sources
from forecast_platform.history.shards import Run
from forecast_platform.lake.closures import Closing
from forecast_platform.lake.tables import table_specs
from forecast_platform.models.registry import plans
from forecast_platform.publishing.series import Listed, list_series
from forecast_platform.settings import Settings

QUANTILES, HORIZON = (0.1, 0.5, 0.9), 4
ASKED = Asked(QUANTILES, 20, 7)
LAST = dt.date(2023, 6, 30)
CLOSED = Closing("2", None, LAST, None, "ann", "rebuilt")
LANDED = dt.datetime(2023, 7, 1, tzinfo=dt.UTC)


def rows(at_most: int, folder: Path) -> list[KnownRows]:
    """Of a made-up retailer: a series that ended, one that pauses, one that is new, promotions, and features of a
    department."""
    made = demo.make_retailer(3, 5, 6, first=dt.date(2021, 1, 1), last=LAST)
    made.sales[0, 1, -70:] = np.nan
    made.sales[3, 2, -9:] = np.nan
    made.sales[4, 0, :-5] = np.nan
    panel = made.panel()
    series, week = np.nonzero(panel.observed)
    specs = table_specs(("p10", "p50", "p90"))
    landing = {"kind": "features", "status": "ingested", "source_key": "f", "source_version": "1", "landed_at": LANDED}
    features = [
        {"store": str(store), "dept": dept, "week": day, "name": name, "value": value, "line": line,
         "source_key": "f", "source_version": "1", "landed_at": LANDED}
        for line, (store, dept, day, name, value) in enumerate(
            (store, None, week, "promotion", float(x))
            for store, own in zip(made.stores, made.promotion, strict=True)
            for week, x in zip(made.feature_weeks.astype(dt.date), own, strict=True)
        )
    ]  # fmt: skip
    features.append({**features[-1], "dept": "2", "value": 0.5, "line": len(features)})
    tables = {
        "cleaned_series": [
            {"store": store, "dept": dept, "week": day, "sales": value, "observed": True, "filled": False}
            for store, dept, day, value in zip(
                panel.store[series].tolist(),
                panel.dept[series].tolist(),
                panel.weeks[week].astype(dt.date).tolist(),
                panel.sales[series, week].tolist(),
                strict=True,
            )
        ],
        "features": features,
        "landings": [landing],
        "calendar": [],
    }
    with duckdb.connect() as con:
        for name, found in tables.items():
            con.register(name, pa.Table.from_pylist(found, specs[name].schema))
        return sources(con, LAST, "now", Meaning(Declarations()), folder, at_most)


def listed(at_most: int, folder: Path, run: Run = map) -> Listed:
    return list_series(rows(at_most, folder / "rows"), folder, 52, HORIZON, [CLOSED], run=run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Listed:
    return listed(10_000, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, whole: Listed) -> Path:
    """A model that asks for every kind of sum: a network of the ratio and two candidates without learning."""
    folder = tmp_path_factory.mktemp("models")
    chosen = plans(Settings(), HORIZON, only=("ratio", "aligned_last_year", "pretrained"))
    chosen["ratio"] |= {"epochs": "1", "num_cells": "8", "num_layers": "1"}
    (panel,) = whole.shards
    LocalEngine(folder).train(opened(panel), chosen)
    return folder


def predicted(models: Path, found: Listed, folder: Path, run: Run = map) -> Predictions:
    engine = LocalEngine(models)
    engine.run = run
    (key,) = (path.name for path in models.iterdir() if path.is_dir())
    return engine.predict(engine.model(key), found.shards, folder, ASKED, None, found.beside)[0]


def said(made: Predictions) -> dict[str, object]:
    """All that is in predictions, the series in the order of their names and sums added up."""
    parts = list(made.shards(QUANTILES, HORIZON))
    names = np.concatenate([np.char.add(np.char.add(part.store, " "), part.dept) for part in parts])
    order = names.argsort()
    sums = {
        level: sum((part.sums[level] for part in parts[1:]), start=parts[0].sums[level]).values.tolist()
        for level in parts[0].sums
    }
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])[order].tolist()
        for name in ("quantiles", "mean", "lead_time", "last_week")
    }
    beside = {
        name: sorted(map(str, table.to_pylist())) if name != "forecast_events" else table.to_pylist()
        for name, table in made.beside().items()
    }
    return {"names": names[order].tolist(), **sums, **arrays, **beside}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, models: Path, whole: Listed) -> dict[str, object]:
    return said(predicted(models, whole, tmp_path_factory.mktemp("whole") / "week"))


def test_the_retailer_has_what_could_go_wrong(whole: Listed) -> None:
    (panel,) = whole.shards
    panel = opened(panel)
    assert panel.covariates is not None
    assert panel.covariates.names == ("promotion",)
    assert {row["store"] for row in whole.beside["no_forecast"].to_pylist()} == {"1", "2"}
    assert whole.beside["stopping_series"].to_pylist()[0]["store"] == "4"
    assert panel.returns is not None
    assert (panel.returns < 1).any()


@pytest.mark.parametrize("at_most", [20, 4, 1])
def test_shards_on_disk_are_forecast_as_the_whole(at_most, tmp_path, models, expected) -> None:
    found = listed(at_most, tmp_path / "series")
    assert len(found.shards) > 1
    assert all(isinstance(shard, Path) for shard in found.shards)
    made = predicted(models, found, tmp_path / "week")
    assert said(made) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series", "week"]


def test_shards_are_put_together_as_they_were(tmp_path, whole) -> None:
    (panel,) = (opened(shard) for shard in whole.shards)
    found = Panel.together([opened(shard) for shard in listed(4, tmp_path).shards])
    for name in ("store", "dept", "weeks", "sales", "filled", "returns"):
        np.testing.assert_array_equal(getattr(found, name), getattr(panel, name))
    assert found.covariates is not None
    assert panel.covariates is not None
    np.testing.assert_array_equal(found.covariates.values, panel.covariates.values)


def test_two_processes_give_the_same(tmp_path, models, expected) -> None:
    run = Workers(2)
    try:
        found = listed(8, tmp_path / "series", run)
        assert said(predicted(models, found, tmp_path / "week", run)) == expected
    finally:
        run.close()


def _dies(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.kill
def test_a_worker_that_is_killed_ends_in_words() -> None:
    run = Workers(1)
    with pytest.raises(EngineError, match="set FORECAST_MEMORY_GB to what this machine can spare"):
        list(run(_dies, [1, 2]))
    run.close()


def _own_id(item: int) -> int:
    return os.getpid()


@pytest.mark.kill
def test_workers_end_with_a_run_that_is_killed() -> None:
    program = (
        f"from {__name__} import _own_id; from forecast_platform.engines.workers import Workers\n"
        "run = Workers(1)\n"
        "print(next(iter(run(_own_id, [1, 2]))), flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), 0)  # the worker is there
        process.kill()
        # The worker has the same stdout, which ends with the last process that holds it. (Its id would not tell: it
        # stays until somebody asks for the exit code, in a container maybe nobody.)
        process.stdout.read()


@pytest.mark.kill
def test_killed_at_any_moment_it_goes_on_and_ends_as_if_it_had_not_been(tmp_path, models, expected) -> None:
    program = (
        f"from pathlib import Path; from {__name__} import listed, predicted\n"
        f"found = listed(4, Path({str(tmp_path / 'series')!r}))\n"
        f"print('listed', flush=True)\n"
        f"predicted(Path({str(models)!r}), found, Path({str(tmp_path / 'week')!r}))\n"
    )
    wait, finished = random.Random(5), set()
    for attempt in range(30):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if attempt < 6:
                time.sleep(wait.uniform(0, 0.8))
                process.kill()
            if process.wait() == 0:
                break
        finished |= {path.name for path in tmp_path.glob("week.*.building/shard-*.json")}
    assert process.returncode == 0
    assert said(Predictions.at(tmp_path / "week")) == expected


def test_a_finished_shard_is_not_made_again(tmp_path, models) -> None:
    found = listed(8, tmp_path / "series")

    def dying(work, items):
        for at, item in enumerate(items):
            outcome = work(item)
            if isinstance(outcome, dict) and at == 2:
                raise KeyboardInterrupt  # two shards were finished, and a third, of which nobody heard
            yield outcome

    with pytest.raises(KeyboardInterrupt):
        predicted(models, found, tmp_path / "week", dying)
    (building,) = tmp_path.glob("week.*.building")
    written = {path.name: path.stat().st_mtime_ns for path in building.glob("series-*.parquet")}
    assert sorted(written) == [f"series-00{n}.parquet" for n in range(3)]
    made = predicted(models, found, tmp_path / "week")
    assert written.items() <= {path.name: path.stat().st_mtime_ns for path in made.folder.glob("series-*")}.items()


def test_what_was_asked_of_others_is_not_taken_up(tmp_path, models) -> None:
    found = listed(8, tmp_path / "series")
    (tmp_path / "week.0123456789ab.building").mkdir()
    predicted(models, found, tmp_path / "week")
    assert not list(tmp_path.glob("*.building"))


def test_a_shard_is_as_large_as_memory_allows() -> None:
    one = series_at_once(4, 1, 143)
    assert series_at_once(4, 2, 143) < one / 2
    assert series_at_once(8, 1, 143) > 2 * one
    assert series_at_once(4, 1, 286) < one
    assert series_at_once(4, 1, 143, columns=5) < one
    assert series_at_once(0.1, 8, 143) == FEWEST
    assert worker_count(3) == 3
    assert worker_count(0) >= 1
