"""A run whose process dies by SIGKILL at a named point inside each asset, and the clean run after it.

The process is forked from one that has everything imported (forecast_platform_tests/processes.py), so that a death
costs a second and not ten. The landing folder stays where it is and each run that dies has a copy of the home of before
the run, so it, the one after it and the undisturbed one all see the same files with the same times.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forecast_platform.demo import Retailer, history_files, week_file
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL, HistoryHome, contents, landing_day, snapshots, weeks_of
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.processes import forked

pytestmark = [pytest.mark.kill, pytest.mark.filterwarnings("ignore::UserWarning")]

# (asset, what is called in it, whether it dies before or after the call, the table concerned). A commit_table that
# never comes leaves data files behind that no table names; a save_artifact that never comes, a trained model lost.
POINTS = [
    ("raw_sales", "Lake.replace", "before", "raw_sales"),
    ("raw_sales", "Lake.replace", "after", "raw_sales"),
    ("raw_sales", "Lake.replace", "after", "landings"),
    ("cleaned_series", "SqlCatalog.commit_table", "before", "cleaned_series"),
    ("cleaned_series", "Lake.replace", "after", "cleaned_series"),
    ("deepar_model", "save_artifact", "before", None),
    ("deepar_model", "Lake.replace", "before", "models"),
    ("deepar_model", "Lake.replace", "after", "models"),
    ("batch_predictions", "predict", "before", None),
    ("batch_predictions", "predict", "after", None),
    ("batch_predictions", "write_table", "after", None),
    ("forecast_table", "Lake.replace", "before", "forecasts"),
    ("forecast_table", "Lake.replace", "after", "forecasts"),
    ("forecast_accuracy", "Lake.replace", "before", "forecast_accuracy"),
    ("forecast_accuracy", "Lake.replace", "after", "forecast_accuracy"),
]


def _places() -> dict[str, tuple[Any, str]]:
    from pyarrow import parquet
    from pyiceberg.catalog.sql import SqlCatalog

    from forecast_platform import deepar
    from forecast_platform.lake.lake import Lake

    return {
        "Lake.replace": (Lake, "replace"),
        "SqlCatalog.commit_table": (SqlCatalog, "commit_table"),
        "save_artifact": (deepar, "save_artifact"),
        "predict": (deepar, "predict"),
        "write_table": (parquet, "write_table"),
    }


def _concerns(arguments: tuple[Any, ...], table: str | None) -> bool:
    from pyiceberg.table import Table

    return table is None or table in [a.name()[-1] if isinstance(a, Table) else a for a in arguments]


def _run_and_die(home: str, landing: str, week: Any, place: str, when: str, table: str | None) -> None:
    """In a process of its own: the weekly run, until the place is reached."""
    os.environ["FORECAST_HOME"] = home
    owner, name = _places()[place]
    original: Callable[..., Any] = getattr(owner, name)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        here = _concerns(args, table)
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
    _open(landing).week(week)


def _open(landing: str) -> Graph:
    return Graph(Settings(**SMALL, landing_url=landing, retrain_every_weeks=1))


class Killed:
    """A home before the weekly run, and what the run gives when nothing happens."""

    def __init__(self, home: HistoryHome, landing: str, week: Any) -> None:
        self.home, self.landing, self.week = home, landing, week
        self.expected = self.rerun(fresh=True)

    def rerun(self, fresh: bool = False) -> dict[str, list[dict[str, Any]]]:
        """All tables after a clean run."""
        if fresh:
            self.place = self.home.copy()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORECAST_HOME", str(self.place))
            graph = _open(self.landing)
        result = graph.week(self.week)
        assert result.success, result.failures
        return contents(graph.lake)

    def die(self, place: str, when: str, table: str | None) -> int | None:
        """Exit code of a run that is killed there: minus the signal's number."""
        self.place = self.home.copy()
        process = forked().Process(
            target=_run_and_die, args=(str(self.place), self.landing, self.week, place, when, table)
        )
        process.start()
        process.join(timeout=120)
        return process.exitcode


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, retailer: Retailer) -> Iterator[Killed]:
    """History in, a forecast of its last week made, and the next week's file landed."""
    folder = tmp_path_factory.mktemp("killed")
    home, landing, weeks = (
        HistoryHome(folder / "home", tmp_path_factory),
        str(folder / "landing"),
        weeks_of(retailer)[:-2],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECAST_HOME", str(home.home))
        graph = _open(landing)
        graph.land(history_files(retailer, weeks[-2], dirty_rows=0), at=landing_day(weeks[-2]))
        assert graph.history(weeks[0], weeks[-2]).success
        assert graph.week(weeks[-2]).success
        name, data = week_file(retailer, weeks[-1])
        graph.land({name: data + b"1,1,2025-01-01,3,\n"}, at=landing_day(weeks[-1]))
        snapshots(graph.lake)  # makes every table, so that no copy has to
        yield Killed(home, landing, weeks[-1])


def test_the_undisturbed_run_writes_every_table(killed: Killed):
    week = killed.week
    written = {name for name, rows in killed.expected.items() if week in {v for row in rows for v in row.values()}}
    assert written >= {"landings", "raw_sales", "cleaned_series", "models", "forecasts", "forecast_accuracy"}
    assert [row["rule"] for row in killed.expected["quarantine"]] == ["wrong_weekday"]


@pytest.mark.parametrize(
    ("asset", "place", "when", "table"), POINTS, ids=[f"{a}-{w}-{p}-{t or ''}".rstrip("-") for a, p, w, t in POINTS]
)
def test_a_killed_run_is_mended_by_the_next(killed: Killed, asset: str, place: str, when: str, table: str | None):
    assert killed.die(place, when, table) == -signal.SIGKILL
    assert killed.rerun() == killed.expected


def test_every_asset_dies_before_and_after_its_commit():
    for asset in {asset for asset, *_ in POINTS}:
        assert {when for found, _, when, _ in POINTS if found == asset} == {"before", "after"}
    assert len({asset for asset, *_ in POINTS}) == 6
