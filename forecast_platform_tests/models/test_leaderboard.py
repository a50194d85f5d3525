"""The leaderboard: its slices add up to the whole and are what they say, regret is told against the best candidate."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecast_platform.history.panel import Panel
from forecast_platform.levels import Level
from forecast_platform.models.backtest import QUANTILES, BacktestRefused, BacktestResult
from forecast_platform.models.blend import Blend
from forecast_platform.models.choose import Choice, Judgement
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.leaderboard import (
    FILE,
    SEASONS,
    SERVED,
    WHOLE,
    Decision,
    Leaderboard,
    LeaderboardLost,
    Tally,
    leaderboard,
    spread_cutoffs,
)
from forecast_platform.models.registry import plans
from forecast_platform.models.target import FIRST_ORIGIN
from forecast_platform.settings import Settings

FIRST = np.datetime64("2020-01-03")  # a Friday
HORIZON = 10
CANDIDATES = ("aligned_last_year", "last_year", "recent_level", "sales, counts")


def week(i: int) -> dt.date:
    return (FIRST + 7 * i).astype(dt.date)


EARLY, LATE = week(45), week(100)  # last_year needs 52 weeks


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Three stores of three departments of very different sizes, with gaps; one closes within the last window."""
    rng = np.random.default_rng(0)
    sizes = np.array([1000, 300, 80, 700, 200, 50, 400, 100, 20.0])[:, None]
    sales = np.round(sizes * rng.lognormal(0, 0.3, (9, 120)), 2)
    sales[rng.random(sales.shape) < 0.03] = np.nan
    sales[4, 105:] = np.nan
    stores, depts = np.repeat(["1", "2", "3"], 3), np.tile(["a", "b", "c"], 3)
    region = Level("region", of="store", values={"1": "North", "2": "North"})
    return Panel(stores, depts, FIRST + 7 * np.arange(120), sales, levels=(region,))


def served(told):
    """Last year's week, or the median known where there is none."""

    def forecast(history: Panel, horizon: int, quantiles):
        told(Choice(Blend.by({"last_year": 3, "recent_level": 1}), Judgement("unjudged", "last_year it is")))
        if len(history.weeks) >= 52:
            return seasonal_naive(history, horizon, quantiles)
        return np.nanmedian(history.sales) * np.ones((len(history), len(quantiles), horizon))

    return forecast


@pytest.fixture(scope="module")
def results() -> list[BacktestResult]:
    return []


@pytest.fixture(scope="module")
def board(panel: Panel, results: list[BacktestResult]) -> Leaderboard:
    candidates = plans(Settings(), HORIZON, 0, CANDIDATES)
    return leaderboard(panel, [LATE, EARLY], HORIZON, served, candidates, QUANTILES, each=results.append)


def test_each_able_candidate_forecasts_once_at_each_cutoff(board: Leaderboard, results: list[BacktestResult]) -> None:
    assert [(r.model, r.cutoff) for r in results] == [
        (SERVED, EARLY), ("recent_level", EARLY),
        (SERVED, LATE), ("aligned_last_year", LATE), ("last_year", LATE), ("recent_level", LATE),
    ]  # fmt: skip
    assert board.cutoffs == [EARLY, LATE]


def test_the_whole_is_what_the_backtest_scored(board: Leaderboard, results: list[BacktestResult]) -> None:
    assert results
    for result in results:
        whole = board.tally(result.model, WHOLE, result.cutoff)
        assert whole
        assert whole.cells == result.scores.cells
        assert (whole.wape, whole.wql, whole.coverage80) == pytest.approx(
            (result.scores.wape, result.scores.wql, result.scores.coverage80)
        )


def test_slices_add_up_to_the_whole(board: Leaderboard) -> None:
    for cutoff in board.cutoffs:
        for name in board.candidates:
            whole = board.tally(name, WHOLE, cutoff)
            for by, least in (("horizon", 3), ("volume", 4), ("season", 1)):
                parts = [t for of in board.slices if of[0] == by and (t := board.tally(name, of, cutoff))]
                if whole is None:
                    assert parts == []
                    continue
                assert len(parts) >= least
                added = sum(parts[1:], parts[0])
                assert (added.cells, added.inside) == (whole.cells, whole.inside)
                assert (added.actual, added.abs_error, added.quantile_loss) == pytest.approx(
                    (whole.actual, whole.abs_error, whole.quantile_loss)
                )


def test_slices_are_of_the_cells_they_name(board: Leaderboard, results: list[BacktestResult], panel: Panel) -> None:
    """Recomputed on long tables, which share nothing with the code under test."""
    (result,) = (r for r in results if (r.model, r.cutoff) == ("recent_level", LATE))
    sold = pd.DataFrame(panel.sales, index=pd.MultiIndex.from_arrays([panel.store, panel.dept]), columns=panel.weeks)
    sold = sold.rename_axis(["store", "dept"]).rename_axis("target_week", axis=1).stack(future_stack=True).rename("y")
    rows = result.forecasts.to_pandas().astype({"target_week": "datetime64[s]"})
    rows = rows.merge(sold.reset_index(), on=["store", "dept", "target_week"])
    last = sold.dropna().reset_index().groupby(["store", "dept"])["target_week"].max().rename("last")
    rows = rows.merge(last.reset_index(), on=["store", "dept"])
    rows = rows[rows["target_week"] <= rows["last"]].fillna({"y": 0.0})
    rows["ahead"] = (rows["target_week"] - pd.Timestamp(LATE)).dt.days // 7
    rows["month"] = rows["target_week"].dt.month
    year = sold.reset_index()
    year = year[
        (year["target_week"] <= pd.Timestamp(LATE))
        & (year["target_week"] > pd.Timestamp(LATE) - pd.Timedelta(weeks=52))
    ]
    size = year.groupby(["store", "dept"])["y"].mean().sort_values(ascending=False).index.tolist()
    rows["rank"] = [size.index(key) for key in zip(rows["store"], rows["dept"], strict=True)]
    rows["region"] = rows["store"].map({"1": "North", "2": "North", "3": "unknown"})
    for of, cells in {
        ("horizon", "1 to 4"): rows["ahead"] <= 4,
        ("horizon", "9 to 10"): rows["ahead"] >= 9,
        ("volume", "largest"): rows["rank"] < 3,  # of 9 series
        ("volume", "smallest"): rows["rank"] >= 7,
        ("season", "Oct-Dec"): rows["month"] >= 10,
        ("season", "Jan-Mar"): rows["month"] <= 3,
    }.items():
        found, wanted = board.tally("recent_level", of, LATE), rows[cells]
        assert found, of
        assert found.cells == len(wanted)
        assert found.wape == pytest.approx((wanted["p50"] - wanted["y"]).abs().sum() / wanted["y"].sum())
        assert found.coverage80 == pytest.approx(wanted["y"].between(wanted["p10"], wanted["p90"]).mean())
        loss = [2 * (q * (e := wanted["y"] - wanted[f"p{q * 100:.0f}"]).clip(lower=0) - (1 - q) * e.clip(upper=0))
                for q in QUANTILES]  # fmt: skip
        assert found.wql == pytest.approx(sum(each.sum() for each in loss) / 9 / wanted["y"].sum())
    for name, keys in (("store", ["store"]), ("dept", ["dept"]), ("region", ["region"]), ("total", [])):
        sums = rows.groupby([*keys, "target_week"])[["y", "p50"]].sum()
        found = board.tally("recent_level", ("level", name), LATE)
        assert found
        assert found.cells == len(sums)
        assert found.wape == pytest.approx((sums["p50"] - sums["y"]).abs().sum() / sums["y"].sum())
        assert found.wql is found.coverage80 is None, "of sums only the median is known"


def test_the_best_in_hindsight_has_no_regret(board: Leaderboard) -> None:
    for cutoff in board.cutoffs:
        best = board.best(cutoff)
        assert best
        assert best != SERVED
        assert board.regret(best, cutoff) == 1
        others = {name for name in board.candidates if cutoff in board.forecast_at(name)} - {SERVED, best}
        assert others or cutoff == EARLY
        assert all((board.regret(name, cutoff) or 0) > 1 for name in others)
        mine, least = board.tally(SERVED, WHOLE, cutoff), board.tally(best, WHOLE, cutoff)
        assert mine
        assert least
        assert board.regret(SERVED, cutoff) == pytest.approx(mine.wql / least.wql)
    each = [board.regret(SERVED, cutoff) for cutoff in board.cutoffs]
    assert board.mean_regret(SERVED) == pytest.approx(sum(each) / 2)


def test_who_was_able_everywhere_comes_first_then_the_least_regret(board: Leaderboard) -> None:
    assert set(board.candidates[:2]) == {SERVED, "recent_level"}
    assert set(board.candidates[2:]) == {"aligned_last_year", "last_year"}
    for group in (board.candidates[:2], board.candidates[2:]):
        regrets = [board.mean_regret(name) for name in group]
        assert regrets == sorted(regrets)
    assert board.forecast_at("last_year") == [LATE]


def test_who_was_not_able_says_why(board: Leaderboard) -> None:
    assert board.unable == [
        ("aligned_last_year", f"needs {FIRST_ORIGIN} weeks; there are 46", [EARLY]),
        ("last_year", "needs 52 weeks; there are 46", [EARLY]),
        ("sales, counts", "sales are not small whole numbers", [EARLY, LATE]),
    ]


def test_a_blend_may_be_better_than_the_best() -> None:
    def tally(loss: float) -> Tally:
        return Tally(10, 100.0, loss, loss, 8)

    made = Leaderboard(
        4, LATE, (Decision(EARLY), Decision(LATE)),
        {(SERVED, EARLY, WHOLE): tally(9), ("a", EARLY, WHOLE): tally(10), ("b", EARLY, WHOLE): tally(20),
         (SERVED, LATE, WHOLE): tally(3), ("a", LATE, WHOLE): tally(4), ("b", LATE, WHOLE): tally(2)},
    )  # fmt: skip
    assert (made.best(EARLY), made.best(LATE)) == ("a", "b")
    assert [made.mean_regret(name) for name in (SERVED, "a", "b")] == pytest.approx([(0.9 + 1.5) / 2, 1.5, 1.5])
    assert made.candidates[0] == SERVED
    pooled = made.tally("b")
    assert pooled
    assert pooled.wql == pytest.approx(22 / 200), "sums are pooled, not ratios"


def test_what_nobody_could_miss_has_no_regret() -> None:
    """A window without sales, or forecast without any error."""
    nothing, right, wrong = Tally(4, 0, 0, 0, 4), Tally(4, 8, 0, 0, 4), Tally(4, 8, 1, 1, 4)
    made = Leaderboard(
        4, LATE, (Decision(EARLY), Decision(LATE)),
        {(SERVED, EARLY, WHOLE): nothing, ("a", EARLY, WHOLE): nothing,
         (SERVED, LATE, WHOLE): wrong, ("a", LATE, WHOLE): right},
    )  # fmt: skip
    assert (made.best(EARLY), made.regret("a", EARLY)) == (None, None)
    assert (made.regret("a", LATE), made.regret(SERVED, LATE)) == (1, None)


def test_it_is_read_as_it_was_written(board: Leaderboard, tmp_path: Path) -> None:
    made = dataclasses.replace(board, made_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), command="forecast x", data="here")
    assert Leaderboard.load(tmp_path) is None
    assert made.save(tmp_path) == tmp_path / FILE
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert Leaderboard.load(tmp_path) == made
    assert made.decisions[0].weights == {"last_year": 0.75, "recent_level": 0.25}
    assert made.decisions[0].why == "last_year it is"
    data = json.loads((tmp_path / FILE).read_text())
    assert data["cutoffs"][1]["best"] == board.best(LATE)
    assert data["cutoffs"][1]["regret"][SERVED] == board.regret(SERVED, LATE)
    (tmp_path / FILE).write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(LeaderboardLost, match="of another version, or damaged; make it again"):
        Leaderboard.load(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(LeaderboardLost):
        Leaderboard.load(tmp_path)


def test_seasons_stand_in_the_order_of_the_year(board: Leaderboard) -> None:
    """The first cutoff saw November, the second January."""
    assert [name for by, name in board.slices if by == "season"] == [
        name for name in SEASONS if ("season", name) in board.slices
    ]
    assert board.slices[:5] == [("level", name) for name in ("series", "store", "dept", "total", "region")]


def test_a_wrong_cutoff_is_refused_before_anything_is_forecast(panel: Panel) -> None:
    asked: list[str] = []
    with pytest.raises(BacktestRefused, match="must lie from"):
        leaderboard(
            panel, [LATE, week(119)], 4, served, plans(Settings(), 4, 0, CANDIDATES), QUANTILES, tell=asked.append
        )
    assert asked == []


def test_cutoffs_spread_over_the_seasons(panel: Panel) -> None:
    found = spread_cutoffs(panel, 4, HORIZON)
    assert found == [week(i) for i in (70, 83, 96, 109)], "13 weeks apart, a whole window after the last"
    assert spread_cutoffs(panel, 1, HORIZON) == [week(109)]
    short = panel.until(week(44))
    assert spread_cutoffs(short, 4, HORIZON) == [week(i) for i in (29, 31, 32, 34)]
    assert len(spread_cutoffs(short, 20, HORIZON)) == 6
    with pytest.raises(BacktestRefused, match="39 weeks of history are too few: a cutoff needs 30 weeks before it"):
        spread_cutoffs(panel.until(week(38)), 1, HORIZON)
