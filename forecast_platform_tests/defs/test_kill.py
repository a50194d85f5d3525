"""A run whose process dies by SIGKILL at a named point inside each asset, and the clean run after it.

What a death leaves is what lies in the home at that moment. So one run goes through all the points and copies the home
at each: the next run starts from such a copy, as it would after a death there. Some points kill a process in earnest,
and what it leaves is held against the copy. Landed files and their times are equal in all of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL, HistoryHome, contents, landing_day, weeks_of
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


Point = tuple[str, str, str | None]  # place, when, table


@contextlib.contextmanager
def _reaching(points: list[Point], reached: Callable[[Point], None]) -> Iterator[None]:
    """While it lasts, `reached` is called wherever a run comes to one of the points."""
    with pytest.MonkeyPatch.context() as patch:
        for place, (owner, name) in _places().items():
            original: Callable[..., Any] = getattr(owner, name)

            def watched(*args: Any, place: str = place, original: Callable[..., Any] = original, **kwargs: Any) -> Any:
                here = [point for point in points if point[0] == place and _concerns(args, point[2])]
                for point in here:
                    if point[1] == "before":
                        reached(point)
                result = original(*args, **kwargs)
                for point in here:
                    if point[1] == "after":
                        reached(point)
                return result

            patch.setattr(owner, name, watched)
        yield


def _run_and_die(home: str, week: Any, point: Point) -> None:
    """In a process of its own: the weekly run, until the point is reached."""
    with _reaching([point], lambda _: os.kill(os.getpid(), signal.SIGKILL)):
        _open(Path(home)).week(week)


def _open(home: Path) -> Graph:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECAST_HOME", str(home))
        return Graph(Settings(**SMALL, retrain_every_weeks=1))


class Killed:
    """A home before the weekly run, what the run gives when nothing happens, and the home at each of the points."""

    def __init__(self, home: HistoryHome, week: Any, folder: Path) -> None:
        self.home, self.week = home, week
        self.left: dict[Point, Path] = {}

        def keep(point: Point) -> None:
            if point not in self.left:  # a process dies once
                self.left[point] = folder / str(len(self.left))
                shutil.copytree(graph.platform.settings.home, self.left[point])

        graph = _open(home.copy())
        with _reaching([(place, when, table) for _, place, when, table in POINTS], keep):
            self.expected = self.rerun(graph)

    def rerun(self, graph: Graph) -> dict[str, list[dict[str, Any]]]:
        """All tables after a clean run."""
        result = graph.week(self.week, only=list({asset: None for asset, *_ in POINTS}))
        assert result.success, result.failures
        return contents(graph.lake)

    def die(self, point: Point) -> Path:
        """The home of a run that is killed there."""
        home = self.home.copy()
        process = forked().Process(target=_run_and_die, args=(str(home), self.week, point))
        process.start()
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL
        return home


@pytest.fixture(scope="module")
def killed(
    first_forecast_home: HistoryHome, tmp_path_factory: pytest.TempPathFactory, retailer: MadeUpRetailer
) -> Killed:
    """History in, a forecast of its last week made, and the next week's file landed."""
    home, week = HistoryHome(first_forecast_home.copy(), tmp_path_factory), weeks_of(retailer)[-3]
    name, data = week_file(retailer, week)
    _open(home.home).land({name: data + b"1,1,2025-01-01,3,\n"}, at=landing_day(week))
    return Killed(home, week, tmp_path_factory.mktemp("killed"))


def test_the_undisturbed_run_writes_every_table(killed: Killed):
    week = killed.week
    written = {name for name, rows in killed.expected.items() if week in {v for row in rows for v in row.values()}}
    assert written >= {"landings", "raw_sales", "cleaned_series", "models", "forecasts", "forecast_accuracy"}
    assert [row["rule"] for row in killed.expected["quarantine"]] == ["wrong_weekday"]


@pytest.mark.parametrize(
    ("asset", "place", "when", "table"), POINTS, ids=[f"{a}-{w}-{p}-{t or ''}".rstrip("-") for a, p, w, t in POINTS]
)
def test_a_killed_run_is_mended_by_the_next(
    killed: Killed, tmp_path: Path, asset: str, place: str, when: str, table: str | None
):
    home = shutil.copytree(killed.left[place, when, table], tmp_path / "home")
    assert killed.rerun(_open(Path(home))) == killed.expected


# In the middle of a commit, and around what is written beside the tables.
@pytest.mark.parametrize(
    "point",
    [
        ("SqlCatalog.commit_table", "before", "cleaned_series"),
        ("save_artifact", "before", None),
        ("write_table", "after", None),
    ],
    ids=lambda point: point[0],
)
def test_what_is_copied_is_what_a_killed_process_leaves(killed: Killed, point: Point):
    died = killed.die(point)
    copied = Path(shutil.copytree(killed.left[point], died.with_name("copied")))
    assert _files(died) == _files(copied) != _files(killed.home.home)
    assert contents(_open(died).lake) == contents(_open(copied).lake)


def _files(home: Path) -> Counter[str]:
    """Files by name, without what is drawn anew for each."""
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"
    drawn = re.compile(uuid + r"|[0-9]{17,}|(?<=tmp)\w{8}|(?<=\.parquet\.)[0-9a-f]{8}")
    return Counter(drawn.sub("*", str(path.relative_to(home))) for path in home.rglob("*") if path.is_file())


def test_every_asset_dies_before_and_after_its_commit():
    for asset in {asset for asset, *_ in POINTS}:
        assert {when for found, _, when, _ in POINTS if found == asset} == {"before", "after"}
    assert len({asset for asset, *_ in POINTS}) == 6
