"""The platform from Python: a home's forecasts, their accuracy, SQL and backtests, as pandas frames."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast_platform.clouds.base import cloud_of
from forecast_platform.lake.tables import QUANTILE
from forecast_platform.levels import KEYS, LEVELS, NAMES
from forecast_platform.scores import SCORES
from forecast_platform.settings import Settings, home

if TYPE_CHECKING:
    import pandas as pd

    from forecast_platform.history.panel import Panel
    from forecast_platform.models.backtest import BacktestResult, Forecaster
    from forecast_platform.models.candidate import Progress
    from forecast_platform.models.choose import Choice
    from forecast_platform.models.leaderboard import Leaderboard

BY = ("week", "forecast_week", "horizon", "store", "dept", "member", "model_version")


class Home:
    """One home, open for reading. Made by forecast_platform.open. Several may be open at once.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path).expanduser().resolve() if path else home()
        missing = f"{self.path} is no home of forecast_platform; make one with: forecast import FILE"
        if not self.path.is_dir():
            raise FileNotFoundError(missing)
        with _as_home(self.path):
            self._settings = Settings()
            self._cloud = cloud_of(self._settings)
        if not self._cloud.begun():  # to be asked is no reason to make a lake
            raise FileNotFoundError(missing)

    def query(self, sql: str, parameters: Sequence[Any] | None = None) -> pd.DataFrame:
        """Rows of one SELECT over the tables and views of docs/tables.md, in DuckDB.

        Args:
            parameters: of the `?` in the SQL.

        Raises:
            LakeError: the SQL is wrong, or does more than read.
        """
        return self._rows(sql, parameters)

    def _rows(
        self, sql: str, parameters: Sequence[Any] | None = None, only: Mapping[str, Collection[str]] | None = None
    ) -> pd.DataFrame:
        """See `query`, and Lake.attach for `only`."""
        frame: pd.DataFrame = self._cloud.lake.query(sql, parameters, only).to_pandas(date_as_object=False)
        return frame

    def forecasts(
        self,
        week: dt.date | str | None = None,
        level: str = LEVELS[0].name,
        store: str = "",
        dept: str = "",
        member: str = "",
    ) -> pd.DataFrame:
        """What was forecast from a week: a row for each target week of each series, or of a level's sums.

        Args:
            week: the last week known then, as a date or in ISO format; None: the newest.
            level: series, store, dept, total or one of the setting `levels`.
            store, dept, member: only theirs; a member is a group of a level by an attribute.

        Raises:
            ValueError: no such level.
        """
        return self._published("forecasts", week, level, (store, dept, member))

    def lead_time_demand(
        self,
        weeks: int,
        week: dt.date | str | None = None,
        level: str = LEVELS[0].name,
        store: str = "",
        dept: str = "",
        member: str = "",
        above: float | None = None,
    ) -> pd.DataFrame:
        """What was forecast of the sales of the next weeks added up: a row for each series, or of a level's sums.

        Args:
            weeks: how many. Those not named here: see `forecasts`.
            above: adds the column `above`, the probability that more than this is sold, straight between the published
                quantiles. Beyond the outermost no more is known: with p10 .. p90, 0.9 means 0.9 or more.

        Raises:
            ValueError: no such level, or not so many weeks are forecast.
        """
        from forecast_platform.publishing.forecasts import probability_above

        found = self._published("lead_time_demand", week, level, (store, dept, member))
        if len(found) and not 1 <= weeks <= found["weeks"].max():
            raise ValueError(f"{weeks} weeks are asked for; forecasts are of 1 to {found['weeks'].max()}")
        found = found[found["weeks"] == weeks].reset_index(drop=True)
        if above is not None:
            columns = [name for name in map(str, found) if QUANTILE.fullmatch(name) and found[name].notna().all()]
            columns.sort(key=lambda name: int(name[1:]))
            quantiles = [int(name[1:]) / 100 for name in columns]
            found["above"] = [
                probability_above(above, row, quantiles) for row in found[columns].to_numpy(float).tolist()
            ]
        return found

    def _published(
        self, table: str, week: dt.date | str | None, level: str, named: tuple[str, str, str]
    ) -> pd.DataFrame:
        names = [*(each.name for each in LEVELS), *self._settings.levels]
        if level not in names:
            raise ValueError(f"no level {level!r}; the levels are {', '.join(names)}")
        if week is None:  # every week has a total, which is found in few files
            newest = "SELECT max(forecast_week) AS week FROM forecasts WHERE level = 'total'"
            found = self._rows(newest, only={"level": ["total"]})["week"]
            week = "0001-01-01" if found.isna().all() else found[0].date()
        asked = {"level": level, **{name: value for name, value in zip(NAMES, named, strict=True) if value}}
        where = " AND ".join(["forecast_week = CAST(? AS DATE)", *(f"{name} = ?" for name in asked)])
        # Of one series the files are read that may hold it: some of hundreds where there are a million.
        return self._rows(
            f"SELECT * FROM {table} WHERE {where} ORDER BY store, dept, member, target_week",  # noqa: S608
            [str(week), *asked.values()],
            {name: [value] for name, value in asked.items()},
        )

    def accuracy(self, by: str | Sequence[str] = "week", level: str = LEVELS[0].name) -> pd.DataFrame:
        """How good the forecasts were that have met their sales: WAPE, wQL, coverage, bias, and last year's week.

        Args:
            by: columns to group by, of BY.
            level: see `forecasts`.

        Raises:
            ValueError: no such column.
        """
        columns = [by] if isinstance(by, str) else list(by)
        if wrong := [name for name in columns if name not in BY]:
            raise ValueError(f"accuracy is told by {', '.join(BY)}; not by {', '.join(wrong)}")
        keys = ", ".join(columns)
        sql = f"SELECT {keys}, {SCORES} FROM forecast_accuracy WHERE level = ? GROUP BY {keys} ORDER BY {keys}"  # noqa: S608
        return self.query(sql, [level])

    def backtest(
        self, sales: pd.DataFrame, cutoffs: Sequence[dt.date | str], horizon: int = 12, seed: int = 0
    ) -> pd.DataFrame:
        """What the platform would have forecast as of past weeks, scored beside forecasts without learning: a row for
        each model and cutoff.

        Args:
            sales: columns store, dept, week and sales; a row a series and week.
            cutoffs: last weeks known, as dates or in ISO format.
            horizon: weeks ahead.

        Raises:
            ValueError: a column is missing, a series has a week twice, or a cutoff cannot be scored.
        """
        import pandas as pd
        import pyarrow as pa

        from forecast_platform.history.reading import build_panel
        from forecast_platform.models.backtest import to_json

        wanted = [*KEYS, "week", "sales"]
        if lacking := [name for name in wanted if name not in sales.columns]:
            raise ValueError(f"sales lack {', '.join(lacking)}; they have {', '.join(map(str, sales.columns))}")
        frame = sales[wanted].astype({"store": str, "dept": str, "sales": float})
        table = pa.table(
            {
                **{name: pa.array(frame[name].tolist(), pa.string()) for name in KEYS},
                "week": pa.array(pd.to_datetime(frame["week"]).dt.date.tolist(), pa.date32()),
                "sales": pa.array(frame["sales"], pa.float64(), from_pandas=True),
            }
        )
        none = pa.table({name: [] for name in ("store", "dept", "week", "name", "value")})
        no_days = pa.table({"name": [], "date": []})
        panel = build_panel(table, none, no_days, self._settings.meaning)
        results = run_backtest(
            panel, self._settings, [dt.date.fromisoformat(str(c)[:10]) for c in cutoffs], horizon, seed
        )
        rows = [
            {"model": model, "cutoff": cutoff, **numbers}
            for model, found in to_json(results).items()
            for cutoff, numbers in found.items()
        ]
        return pd.DataFrame(rows).sort_values(["cutoff", "wape"], ignore_index=True)

    def leaderboard(self) -> pd.DataFrame:
        """What `forecast backtest --candidate` last kept here: a row for each candidate, cutoff and slice, with its
        sums and the scores they make; no row where nothing was kept. The candidate `deepar` is what is served.

        Raises:
            LeaderboardLost: what was kept cannot be read.
        """
        import pandas as pd

        from forecast_platform.models.leaderboard import Leaderboard

        board = Leaderboard.load(self.path)
        return pd.DataFrame(board.rows() if board else [])


def run_backtest(
    panel: Panel,
    settings: Settings,
    cutoffs: Sequence[dt.date],
    horizon: int,
    seed: int = 0,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[BacktestResult]:
    """The shipped model (named deepar), aligned last year and the seasonal naive at each cutoff.

    Raises:
        BacktestRefused: see models.backtest.backtest.
    """
    from forecast_platform.models.backtest import backtest
    from forecast_platform.models.choose import shipped_forecaster
    from forecast_platform.models.last_year.outlook import aligned_last_year
    from forecast_platform.models.last_year.week import seasonal_naive
    from forecast_platform.models.registry import plans

    shipped = shipped_forecaster(
        plans(settings, horizon, seed), settings.num_samples, progress, lambda choice: tell(choice.judgement.why)
    )
    models = {"deepar": shipped, "aligned_last_year": aligned_last_year, "seasonal_naive": seasonal_naive}
    return backtest(panel, cutoffs, horizon, models, quantiles=settings.quantiles, progress=tell)


def run_leaderboard(
    panel: Panel,
    settings: Settings,
    cutoffs: Sequence[dt.date],
    horizon: int,
    candidates: Sequence[str],
    seed: int = 0,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
    each: Callable[[BacktestResult], None] = lambda result: None,
) -> Leaderboard:
    """These candidates beside the shipped model, by slices; see models.leaderboard.

    Raises:
        BacktestRefused: see models.backtest.backtest.
    """
    from forecast_platform.models.choose import shipped_forecaster
    from forecast_platform.models.leaderboard import leaderboard
    from forecast_platform.models.registry import plans

    shipped, samples = plans(settings, horizon, seed), settings.num_samples
    alone = plans(settings, horizon, seed, candidates)

    def served(told: Callable[[Choice], None]) -> Forecaster:
        return shipped_forecaster(shipped, samples, progress, told)

    return leaderboard(panel, cutoffs, horizon, served, alone, settings.quantiles, samples, progress, tell, each)


@contextmanager
def _as_home(path: Path) -> Iterator[None]:
    """Settings of this home, whatever the environment says."""
    before = os.environ.get("FORECAST_HOME")
    os.environ["FORECAST_HOME"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FORECAST_HOME"]
        else:
            os.environ["FORECAST_HOME"] = before
