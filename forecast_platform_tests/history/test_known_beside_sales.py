"""Features and calendar through a lake on disk: which version counts, as known now and as known then."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import numpy as np
import pytest

from forecast_platform.demo import history_files, make_retailer
from forecast_platform.history.covariates import Declarations, complete
from forecast_platform.history.panel import Panel
from forecast_platform.history.reading import Meaning, read_panel
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.ingest import ingest_landed
from forecast_platform.weeks import WEEK, WEEKDAYS, WeekCalendar
from forecast_platform_tests.conftest import QUANTILES
from forecast_platform_tests.history.conftest import clean_table
from forecast_platform_tests.landing.dated import DatedLanding

NAN = np.nan
BOTH = Declarations.of({"promo": "known", "rain": "past"})


class Retailer:
    """A lake, the folder whose files go into it, and weeks named by number from `first` on."""

    def __init__(self, folder: Path, first: dt.date = dt.date(2024, 1, 5)) -> None:
        self.first = first
        self.lake = Lake.local(folder / "lake", QUANTILES)
        self.landing = DatedLanding(folder / "landing")
        self.calendar = WeekCalendar(WEEKDAYS[first.weekday()], first)

    def week(self, number: int) -> dt.date:
        return self.first + number * WEEK

    def land(self, key: str, at_week: float, header: str, *rows: tuple) -> None:
        """Write and ingest a file `at_week` weeks after the first; week numbers in rows become dates."""
        lines = [header, *(",".join("" if x is None else str(x) for x in row) for row in rows), ""]
        self.put(key, at_week, "\n".join(lines).encode())

    def put(self, key: str, at_week: float, data: bytes) -> None:
        at = dt.datetime.combine(self.first, dt.time(12), dt.UTC) + at_week * WEEK
        self.landing.land(key, data, at)
        ingest_landed(self.lake, self.landing, Dialect.named("canonical"), self.calendar, at + 500 * WEEK)

    def sales(self, weeks: int) -> None:
        for w in range(weeks):
            rows = [(s, d, self.week(w), 10) for s in "12" for d in "ab"]
            self.land(f"sales/{w}.csv", w + 0.5, "store,dept,date,weekly_sales", *rows)
        con = self.lake.attach(duckdb.connect())
        rows = clean_table(con, self.week(0), self.week(weeks - 1), 52)
        con.close()
        self.lake.replace_weeks("cleaned_series", [self.week(w) for w in range(weeks)], rows)

    def panel(
        self, cutoff: int, as_known: str = "now", declarations: Declarations = BOTH, country="US", active_weeks=52
    ) -> Panel:
        con = self.lake.attach(duckdb.connect())
        try:
            return read_panel(
                con, self.week(cutoff), as_known, Meaning(declarations, country, active_weeks=active_weeks)
            )
        finally:
            con.close()


@pytest.fixture
def retailer(tmp_path, tables_home) -> Retailer:
    return Retailer(tables_home(tmp_path))


def test_known_columns_reach_past_the_cutoff_and_past_only_ones_end_there(retailer):
    retailer.sales(3)
    rows = [(s, retailer.week(w), w, w / 2) for s in "12" for w in range(6)]
    retailer.land("features/f.csv", 0, "store,date,promo,rain", *rows)
    panel = retailer.panel(1)
    assert panel.weeks[-1] == np.datetime64(retailer.week(1))
    np.testing.assert_array_equal(panel.covariates.values[:, 0], [[0, 1, 2, 3, 4, 5], [0, 0.5, NAN, NAN, NAN, NAN]])
    np.testing.assert_array_equal(panel.covariates.values[:, 3], panel.covariates.values[:, 0])


def test_the_version_in_force_is_the_last_that_had_landed(retailer):
    retailer.sales(4)
    header = "store,date,promo,rain"
    retailer.land("features/plan.csv", 0, header, *[("1", retailer.week(w), 1, 0) for w in range(6)])
    retailer.land("features/plan.csv", 2.5, header, *[("1", retailer.week(w), 2, 0) for w in range(2, 6)])
    retailer.land("features/late.csv", 3.5, header, ("1", retailer.week(3), 3, 0))
    retailer.land("features/late.csv", 4.5, header, ("1", retailer.week(4), 4, 0))

    def promo(cutoff: int, as_known: str) -> list:
        return retailer.panel(cutoff, as_known).covariates.values[0, 0].tolist()

    np.testing.assert_equal(promo(3, "now"), [1, 1, 2, 3, 4, 2])
    np.testing.assert_equal(promo(1, "now"), [1, 1, 2, 3, 4, 2])
    np.testing.assert_equal(promo(1, "then"), [1] * 6)
    np.testing.assert_equal(promo(2, "then"), [1, 1, 2, 2, 2, 2])  # landed before the week after week 2 had ended
    np.testing.assert_equal(promo(3, "then"), [1, 1, 2, 3, 2, 2])


def test_a_departments_own_value_wins_whichever_landed_later(retailer):
    retailer.sales(1)
    retailer.land("features/dept.csv", 0, "store,dept,date,promo,rain", ("1", "b", retailer.week(0), 2, 0))
    retailer.land("features/store.csv", 1, "store,date,promo,rain", ("1", retailer.week(0), 1, 0))
    assert retailer.panel(0).covariates.values[0, :2, 0].tolist() == [1, 2]


def test_a_value_taken_back_is_none(retailer):
    retailer.sales(1)
    retailer.land("features/a.csv", 0, "store,date,promo,rain", ("1", retailer.week(0), 2, 1))
    retailer.land("features/b.csv", 1, "store,date,promo,rain", ("1", retailer.week(0), None, 1))
    assert np.isnan(retailer.panel(0).covariates.values[0, 0, 0])


def test_no_plans_are_asked_of_a_store_that_the_setting_counts_as_closed(retailer):
    # Store 2 sold nothing for 20 weeks.
    rows = [(s, "a", retailer.week(w), 10) for w in range(30) for s in ("12" if w < 10 else "1")]
    retailer.land("sales/all.csv", 29.5, "store,dept,date,weekly_sales", *rows)
    plans = [("1", retailer.week(w), 1, 0) for w in range(34)] + [("2", retailer.week(w), 1, 0) for w in range(10)]
    retailer.land("features/f.csv", 0, "store,date,promo,rain", *plans)
    con = retailer.lake.attach(duckdb.connect())
    retailer.lake.replace_weeks(
        "cleaned_series",
        [retailer.week(w) for w in range(30)],
        clean_table(con, retailer.week(0), retailer.week(29), 13),
    )
    con.close()
    closed, still_open = (retailer.panel(29, active_weeks=weeks) for weeks in (13, 52))
    assert len(closed) == len(still_open) == 2  # what a closed series sold is learned from
    ready, _ = complete(closed, 4)
    assert ready.covariates.values[0, 0].tolist() == [1] * 34
    with pytest.raises(ValueError, match=r"promo has no value for the week of .* \(store 2\)"):
        complete(still_open, 4)


def test_a_calendar_of_the_retailers_own(retailer):
    retailer.sales(2)
    assert {e.name for e in retailer.panel(1, "now", Declarations(), "DE").events} >= {"Pentecost", "Christmas"}
    header = "name,date"
    retailer.land("calendar/c.csv", 1.5, header, ("Fair", "2023-06-01"), ("Fair", "2024-06-05"))
    retailer.land("calendar/c.csv", 2.5, header, ("Fest", "2023-06-01"), ("Fest", "2024-06-05"), ("Fest", "2025-06-06"))
    assert [(e.name, len(e.dates)) for e in retailer.panel(1, "now", Declarations()).events] == [("Fest", 3)]
    assert [e.name for e in retailer.panel(1, "then", Declarations()).events] == ["Fair"]


def test_a_declared_column_that_never_landed_is_named(retailer):
    retailer.sales(1)
    with pytest.raises(ValueError, match="declared column promo is not among the features: no features landed yet"):
        retailer.panel(0)
    retailer.land("features/a.csv", 0, "store,date,rain", ("1", retailer.week(0), 1))
    with pytest.raises(ValueError, match="the columns that landed are rain; land it under features/"):
        retailer.panel(0)


def test_without_declarations_a_panel_is_sales_alone(retailer):
    retailer.sales(1)
    panel = retailer.panel(0, declarations=None)
    assert (panel.covariates, panel.exposure, panel.events) == (None, None, None)


@pytest.mark.parametrize("first", [dt.date(2024, 1, 5), dt.date(2024, 1, 7), dt.date(2024, 1, 3)])
def test_whatever_day_a_week_ends_on(tmp_path, first):
    retailer = Retailer(tmp_path, first)
    retailer.sales(3)
    rows = [(s, retailer.week(w), w, 7 - w) for s in "12" for w in range(6)]
    retailer.land("features/f.csv", 0, "store,date,promo,open_days", *rows)
    panel, notices = complete(retailer.panel(2, declarations=Declarations()), 3)
    assert notices == ()
    assert panel.covariates.names == ("open_days", "promo")
    np.testing.assert_array_equal(panel.covariates.values[1, 0], range(6))
    np.testing.assert_allclose(
        panel.exposure.values[0, 0], (7 - np.arange(6)) / 6
    )  # of the usual week, the median of 7, 6, 5


def test_the_demos_files_give_the_demos_promotions(tmp_path):
    made = make_retailer(stores=2, depts=2, first=dt.date(2024, 1, 5), last=dt.date(2024, 6, 28))
    retailer = Retailer(tmp_path, made.weeks[0].astype(dt.date))
    for key, data in history_files(made, made.weeks[-1].astype(dt.date), dirty_rows=0).items():
        retailer.put(key, 0, data)
    panel = retailer.panel(len(made.weeks) - 1, "then", Declarations())
    panel, notices = complete(panel, 12)
    assert notices == ()
    assert panel.covariates.names == ("promotion",)
    want = made.promotion[np.searchsorted(made.stores, panel.store.astype(int))]
    np.testing.assert_allclose(panel.covariates.values[0], want)
    assert "Valentine's Day" in {event.name for event in panel.events}, "from the calendar that landed"
