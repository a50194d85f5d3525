"""Weeks without a row, and weeks in which a whole store sold nothing: what is decided, by what, and for good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecast_platform.cli.backtest import read_folder
from forecast_platform.history.absence import interpret, judge, told
from forecast_platform.history.cleaning import completeness
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.history.reading import read_panel
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK
from forecast_platform_tests.history.conftest import FRIDAY, clean_table, connect, landed, make_panel, show_cleaned

SHAPES = Path(__file__).parents[1] / "field_cases" / "shapes"
RNG = np.random.default_rng(0)
LONG = 80
Sales = dict[tuple[str, str], list[float | None]]


@pytest.fixture(scope="module")
def shapes() -> Panel:
    return read_folder(SHAPES, Settings())


def steady(level: float = 5000, seed: int = 0, weeks: int = LONG) -> list[float | None]:
    return list(np.random.default_rng(seed).normal(level, level / 10, weeks).round(2).tolist())


def pieces(rate: float, seed: int = 1, weeks: int = LONG) -> tuple[list[float | None], list[float | None]]:
    """A series that sells pieces by chance, with its zeros and without a row for them."""
    sold = np.random.default_rng(seed).poisson(rate, weeks).astype(float)
    sold[0] = max(sold[0], 1)
    return sold.tolist(), [x or None for x in sold.tolist()]


def of(panel: Panel, store: str, dept: str) -> int:
    return int(np.flatnonzero((panel.store == store) & (panel.dept == dept))[0])


def filled(sales: Sales, store: str = "1", dept: str = "1", no_row: str = "auto") -> list[int]:
    """The weeks of a series that count as zero."""
    panel = make_panel(sales)
    absence = judge(panel, no_row, 52)  # type: ignore[arg-type]
    return np.flatnonzero(absence.filled[of(panel, store, dept)]).tolist()


def beside(*series: list[float | None]) -> Sales:
    """Departments 1, 2, .. of store 1, with a steady one beside and another store."""
    sales: Sales = {("1", str(i)): values for i, values in enumerate(series, 1)}
    return sales | {("1", "steady"): steady(), ("2", "steady"): steady(seed=5)}


class TestFieldCase:
    def test_an_article_without_rows_where_nothing_sold_is_the_one_with_zeros(self, shapes: Panel) -> None:
        rows, zeros = (of(shapes, store, "x") for store in ("sparse_rows", "sparse_zero"))
        assert np.nanmean(shapes.sales[rows]) == pytest.approx(np.nanmean(shapes.sales[zeros]), rel=0.1)
        assert np.nanmean(shapes.sales[rows][-104:]) == pytest.approx(3.2, abs=0.4)
        assert np.isnan(shapes.sales[rows][8:]).sum() <= 8, "but for the first weeks, in which there is no habit yet"

    def test_only_it_is_filled(self, shapes: Panel) -> None:
        assert shapes.filled is not None
        assert shapes.store[shapes.filled.any(axis=1)].tolist() == ["sparse_rows"]
        assert told(shapes).endswith("in 1 of 22 series")


class TestAuto:
    @pytest.mark.parametrize("rate", [0.3, 1.0, 1.5, 2.0])
    def test_an_article_of_few_pieces_sells_none_in_a_week_without_a_row(self, rate: float) -> None:
        whole, gaps = pieces(rate)
        panel = interpret(make_panel(beside(gaps)), "auto", 52)
        seen = panel.sales[of(panel, "1", "1")][20:]
        assert np.isnan(seen).sum() <= 3
        assert np.nanmean(seen) == pytest.approx(np.mean(whole[20:]), rel=0.1)

    def test_a_hole_in_a_steady_series_is_a_missing_report(self) -> None:
        holes = steady(seed=3)
        for week in (20, 30, 31, 45, 60, 70, 79):
            holes[week] = None
        assert filled(beside(holes)) == []

    def test_a_steady_series_that_ended_is_not_selling_zeros(self) -> None:
        assert filled(beside(steady(seed=3)[:40] + [None] * 40)) == []

    def test_where_zeros_are_written_no_row_means_something_else(self) -> None:
        whole, gaps = pieces(0.5)
        _, other = pieces(0.5, seed=9)
        assert filled(beside(gaps, other))
        written = [x if g or i % 3 else None for i, (x, g) in enumerate(zip(whole, gaps, strict=True))]
        assert filled(beside(written)) == [], "the series writes two of three"
        assert filled(beside(gaps, whole, pieces(0.5, seed=4)[0])) == [], "its store does"
        assert filled(beside(gaps) | {("2", "1"): whole, ("2", "2"): whole}), "another store may do as it likes"

    def test_a_store_without_any_row_is_never_filled(self) -> None:
        sales = beside(pieces(0.5)[1], pieces(0.5, seed=2)[1])
        for (store, _), values in sales.items():
            if store == "1":
                values[50:55] = [None] * 5
        assert not set(range(50, 55)) & set(filled(sales))
        assert not set(range(50, 55)) & set(filled(sales, no_row="zero"))
        assert set(filled(sales)) & set(range(45, 60)), "the weeks around are"

    def test_a_week_that_nobody_reported_is_unknown(self) -> None:
        sales: Sales = {(str(s), "1"): pieces(0.5, seed=s)[1] for s in range(4)} | {("9", "1"): steady()}
        for values in sales.values():
            values[40] = None
        assert 40 not in filled(sales, "1")
        assert filled(sales, "1"), "the other stores bear witness for a store of one article"


def test_zero_and_unknown_do_as_they_say() -> None:
    holes = steady(seed=3)
    holes[20] = holes[30] = None
    assert filled(beside(holes), no_row="zero") == [20, 30]
    assert filled(beside(pieces(0.5)[1]), no_row="unknown") == []
    ended = beside(steady(seed=3)[:20] + [None] * 60)
    assert filled(ended, no_row="zero") == list(range(20, 20 + 51)), "until the series counts as closed"


_gaps = st.lists(st.one_of(st.none(), st.integers(0, 6).map(float)), min_size=30, max_size=30)


@given(st.lists(_gaps, min_size=2, max_size=5), st.integers(10, 29), st.sampled_from(["auto", "zero"]))
@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
def test_a_later_week_never_changes_what_was_decided(series: list[list[float | None]], cut: int, no_row: str) -> None:
    """What a backtest knows at a cutoff is what the graph knew then."""
    sales: Sales = {(str(i % 2), str(i)): [1.0, *values] for i, values in enumerate(series)}
    whole = make_panel(sales)
    week = FRIDAY + cut * WEEK
    early = interpret(whole.until(week), no_row, 12)  # type: ignore[arg-type]
    late = interpret(whole, no_row, 12).until(week)  # type: ignore[arg-type]
    np.testing.assert_array_equal(early.sales, late.sales)
    assert early.filled is not None
    assert late.filled is not None
    np.testing.assert_array_equal(early.filled, late.filled)
    assert not (early.filled & whole.until(week).observed).any(), "a row is never overwritten"


class TestClosures:
    @staticmethod
    def closed_for(weeks: range, row: float | None) -> Panel:
        """Store 1 sells nothing in some weeks, written as zeros or not at all; store 2 goes on."""
        sales = {(s, str(d)): steady(seed=d) for s in ("1", "2") for d in range(4)}
        for (store, _), values in sales.items():
            for week in weeks if store == "1" else ():
                values[week] = row
        return make_panel(sales)

    @pytest.mark.parametrize("row", [0.0, None], ids=["zeros", "no rows"])
    def test_a_store_that_sold_nothing_is_closed_and_not_learned_from(self, row: float | None) -> None:
        weeks = range(40, 44)
        panel = self.closed_for(weeks, row)
        absence = judge(panel, "auto", 52)
        assert {(panel.store[i], int(t)) for i, t in np.argwhere(absence.closed)} == {("1", t) for t in weeks}
        assert np.isnan(interpret(panel, "auto", 52).sales[:4, 40:44]).all()
        assert interpret(panel, "auto", 52).observed[4:].all()

    def test_one_department_without_sales_is_no_closure(self) -> None:
        panel = self.closed_for(range(0), 0.0)
        panel.sales[0, 40] = 0.0
        assert not judge(panel, "auto", 52).closed.any()

    @pytest.mark.parametrize(("reporting", "closed"), [(1, False), (2, True)])
    def test_a_store_alone_is_no_witness_that_the_others_reported(self, reporting: int, closed: bool) -> None:
        """Of three other stores so many reported in the week that store 1 wrote zeros for."""
        sales: Sales = {(s, str(d)): steady(seed=d) for s in "1234" for d in range(4)}
        for (store, _), values in sales.items():
            if store == "1" or int(store) > 1 + reporting:
                values[40] = 0.0 if store == "1" else None
        panel = make_panel(sales)
        assert judge(panel, "auto", 52).closed[panel.store == "1", 40].tolist() == [closed] * 4

    def test_zeros_of_a_series_that_never_sold_are_kept_while_its_store_is_closed(self) -> None:
        panel = self.closed_for(range(40, 44), 0.0)
        panel.sales[0] = 0.0
        assert judge(panel, "auto", 52).closed[0, 40:44].all()
        found = interpret(panel, "auto", 52).sales
        assert (found[0] == 0).all()
        assert np.isnan(found[1:4, 40:44]).all()

    def test_a_quiet_week_of_a_store_of_few_sparse_articles_is_chance(self) -> None:
        sales: Sales = {("1", str(d)): pieces(0.5, seed=d)[0] for d in range(3)} | {("2", "1"): steady()}
        quiet = np.array([sales["1", str(d)] for d in range(3)]).sum(axis=0) == 0
        assert quiet.any()
        assert not judge(make_panel(sales), "auto", 52).closed.any()

    def test_where_open_days_are_given_they_say_it(self) -> None:
        panel = self.closed_for(range(40, 44), 0.0)
        days = np.full((1, *panel.sales.shape), 6.0)
        days[0, :4, 40:44] = 0
        given_days = Covariates((Declaration("open_days"),), days)
        from dataclasses import replace

        found = interpret(replace(panel, exposure=given_days), "auto", 52)
        np.testing.assert_array_equal(found.sales, panel.sales)

    def test_next_year_is_not_halved(self) -> None:
        """The outlook of the weeks a year after a closure is the usual one."""
        from forecast_platform.models.last_year.outlook import aligned_last_year

        sales = {(s, str(d)): steady(1000, d, 110) for s in ("1", "2") for d in range(4)}
        for (store, _), values in sales.items():
            for week in range(58, 62) if store == "1" else ():
                values[week] = 0.0
        raw = make_panel(sales)
        learned, misled = (aligned_last_year(p, 4, (0.5,))[:4] for p in (interpret(raw, "auto", 52), raw))
        assert learned.mean() == pytest.approx(1000, rel=0.05)
        assert misled.mean() < 800, "or there would be nothing to mend"


def rows_of(sales: Sales) -> list[tuple[int, str, str, float]]:
    return [(w, s, d, x) for (s, d), values in sales.items() for w, x in enumerate(values) if x is not None]


class TestTable:
    """What `cleaned_series` shows, beside what is learned from."""

    SALES = beside(pieces(0.6)[1])
    LAST = FRIDAY + (LONG - 1) * WEEK

    def cleaned(self, no_row: str = "auto") -> pa.Table:
        return clean_table(connect([landed("a.csv", 1, *rows_of(self.SALES))]), FRIDAY, self.LAST, 52, no_row)  # type: ignore[arg-type]

    def test_zeros_of_ours_are_marked_and_observed(self) -> None:
        found = self.cleaned().filter(pa.compute.field("filled")).to_pylist()
        assert {(r["store"], r["dept"], r["sales"], r["observed"], r["landed_at"]) for r in found} == {
            ("1", "1", 0.0, True, None)
        }
        weeks = [(r["week"] - FRIDAY).days // 7 for r in found]
        assert sorted(weeks) == filled(self.SALES)
        assert self.cleaned("unknown")["filled"].to_pylist().count(True) == 0

    def test_weeks_one_by_one_are_the_range(self) -> None:
        con = connect([landed("a.csv", 1, *rows_of(self.SALES))])
        singly = [clean_table(con, w, w, 52) for w in (FRIDAY + i * WEEK for i in range(LONG - 6, LONG))]
        order = [("week", "ascending"), ("store", "ascending"), ("dept", "ascending")]
        at_once = clean_table(con, FRIDAY + (LONG - 6) * WEEK, self.LAST, 52)
        assert pa.concat_tables(singly).sort_by(order) == at_once.sort_by(order)

    @pytest.mark.parametrize("shards", [2, 7])
    def test_the_table_is_the_same_however_little_is_in_memory(self, shards: int) -> None:
        sales = {(s, d): values for (_, d), values in self.SALES.items() for s in "1234"}
        sales |= {("1", str(d)): [0.0 if 40 <= w < 44 else x for w, x in enumerate(steady(seed=d))] for d in range(5)}
        con = connect([landed("a.csv", 1, *rows_of(sales)), landed("b.csv", 90, *rows_of({("2", "1"): [7.0, 8.0]}))])
        whole = clean_table(con, FRIDAY, self.LAST, 52)
        assert whole["filled"].to_pylist().count(True) > 9
        assert whole["is_restated"].to_pylist().count(True) == 2
        assert clean_table(con, FRIDAY, self.LAST, 52, at_most=len(sales) * LONG // shards) == whole

    def test_sales_of_a_day_that_ends_no_week_are_refused(self) -> None:
        con = connect([landed("a.csv", 1, *rows_of(self.SALES))], first=FRIDAY + WEEK / 7)
        with pytest.raises(ValueError, match="there are sales of 2024-01-06, but weeks end on Friday"):
            clean_table(con, FRIDAY, self.LAST, 52)

    def test_graph_backtest_and_table_agree(self, tmp_path: Path) -> None:
        con = show_cleaned(connect([landed("a.csv", 1, *rows_of(self.SALES))]), self.cleaned())
        now, then = (read_panel(con, self.LAST, mode) for mode in ("now", "then"))
        lines = ["store,dept,date,weekly_sales"]
        lines += [f"{s},{d},{FRIDAY + w * WEEK},{x}" for w, s, d, x in rows_of(self.SALES)]
        (tmp_path / "sales.csv").write_text("\n".join(lines) + "\n")
        for other in (then, read_folder(tmp_path, Settings())):
            np.testing.assert_array_equal(now.sales, other.sales)
            assert now.filled is not None
            assert other.filled is not None
            np.testing.assert_array_equal(now.filled, other.filled)
        shown = con.execute("SELECT sum(sales), count(*) FILTER (observed) FROM cleaned_series").fetchone()
        assert shown == (pytest.approx(np.nansum(now.sales)), int(now.observed.sum()))

    def test_a_habit_of_no_rows_does_not_make_a_week_incomplete_and_zeros_do_not_complete_it(self) -> None:
        cleaned = self.cleaned()
        weeks = cleaned.filter(pa.compute.field("filled"))["week"].to_pylist()
        week = next(w for w in weeks if (w - FRIDAY).days // 7 > 30)
        con = show_cleaned(connect([landed("a.csv", 1, *rows_of(self.SALES))]), cleaned)
        (full,) = completeness(con, [week])
        assert full.share == 1.0
        assert full.rows == 2
        # Of a week in which store 1 sent one article alone, no zero may hide that the others are missing.
        partial = self.SALES | {("1", "steady"): [*steady()[:-1], None], ("1", "other"): [*steady(seed=7)[:-1], None]}
        partial["1", "1"] = [*partial["1", "1"][:-1], 3.0]
        con = connect([landed("a.csv", 1, *rows_of(partial))])
        (thin,) = completeness(show_cleaned(con, clean_table(con, FRIDAY, self.LAST, 52, "zero")), [self.LAST])
        assert thin.share < 0.8
