"""Cleaning: which version of a row counts, the grid and its gaps, and what of it could have been known."""

from __future__ import annotations

import datetime as dt
import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecast_platform.history.cleaning import Completeness, completeness, newest_complete_week
from forecast_platform.history.reading import known_by, read_panel
from forecast_platform.history.versions import EVER
from forecast_platform.lake.lake import Lake
from forecast_platform.weeks import WEEK
from forecast_platform_tests.history.conftest import (
    CLEAN,
    FRIDAY,
    SPECS,
    Landed,
    clean_table,
    connect,
    landed,
    show_cleaned,
)
from forecast_platform_tests.history.versions import Delivery
from forecast_platform_tests.history.versions import versions as rule_of_versions


def clean(versions, last: int, first: int = 0, active_weeks: int = 52, start: dt.date = FRIDAY) -> dict:
    """Cleaned rows as {(week number, store, dept): row}."""
    con = connect(versions, start)
    return as_dict(clean_table(con, start + first * WEEK, start + last * WEEK, active_weeks, "unknown"), start)


def as_dict(rows: pa.Table, start: dt.date = FRIDAY) -> dict:
    columns = [name for name in CLEAN if name != "store_closed"]  # see test_absence.py
    found = {((r["week"] - start).days // 7, r["store"], r["dept"]): r for r in rows.select(columns).to_pylist()}
    assert len(found) == len(rows), "a key occurs twice"
    return found


def sales(rows: dict) -> dict:
    return {key: row["sales"] for key, row in rows.items()}


def reference(versions: list[Landed], first: int, last: int, active_weeks: int) -> dict:
    """The same from its words, cell by cell, in plain Python."""
    deliveries = [
        Delivery(v.key, f"{v.key} {v.at}", v.at, {(w, s, d): (x, h) for w, s, d, x, h in v.rows}, status=v.status)
        for v in versions
    ]
    rule = rule_of_versions(deliveries, EVER)
    in_force = {cell: (x, h, v) for cell, (v, (x, h)) in rule.in_force.items() if cell[0] <= last}
    holidays = {w for (w, _, _), (_, h, _) in in_force.items() if h}
    out = {}
    for s, d in {(s, d) for _, s, d in in_force}:
        for w in range(first, last + 1):
            observed = [u for u in range(w + 1) if in_force.get((u, s, d), (None,))[0] is not None]
            if not observed or w - observed[-1] >= active_weeks:
                continue
            here = observed[-1] == w
            x, _, v = in_force[observed[-1], s, d]
            out[w, s, d] = {
                "week": FRIDAY + w * WEEK,
                "store": s,
                "dept": d,
                "sales": x if here else None,
                "observed": here,
                "is_return": here and x < 0,
                "is_restated": (w, s, d) in rule.restated,
                "is_holiday": w in holidays,
                "landed_at": v.at if here else None,
                "source_key": v.key if here else None,
                "filled": False,
            }
    return out


_cells = st.dictionaries(
    st.tuples(st.integers(0, 9), st.sampled_from(["1", "10"]), st.sampled_from(["1", "2"])),
    st.tuples(st.one_of(st.none(), st.integers(-50, 500).map(float)), st.booleans()),
    max_size=14,
)
# Moments repeat across files (files of one delivery) but not for one file.
_versions = st.lists(
    st.tuples(st.sampled_from(["a.csv", "b.csv", "c.csv"]), st.integers(0, 12), _cells),
    min_size=1, max_size=5, unique_by=lambda v: v[:2],
).map(lambda found: [landed(key, at, *((*k, *v) for k, v in cells.items())) for key, at, cells in found])  # fmt: skip


class TestAgainstTheReference:
    @given(_versions, st.integers(0, 9), st.integers(0, 9), st.integers(1, 6))
    @hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
    def test_clean_weeks_equals_it(self, versions, one, other, active_weeks):
        first, last = sorted((one, other))
        assert clean(versions, last, first, active_weeks) == reference(versions, first, last, active_weeks)

    @given(_versions, st.integers(0, 9), st.integers(1, 6))
    @hypothesis_settings(max_examples=6, deadline=None, derandomize=True)
    def test_a_range_is_its_weeks_one_by_one(self, versions, last, active_weeks):
        con, singly = connect(versions), {}
        for w in range(last + 1):
            singly |= as_dict(clean_table(con, FRIDAY + w * WEEK, FRIDAY + w * WEEK, active_weeks))
        assert as_dict(clean_table(con, FRIDAY, FRIDAY + last * WEEK, active_weeks)) == singly

    @given(_versions, _cells, st.integers(0, 8))
    @hypothesis_settings(max_examples=12, deadline=None, derandomize=True)
    def test_later_weeks_never_change_earlier_ones(self, versions, more, last):
        later = landed("later.csv", 20, *((*k, *v) for k, v in more.items() if k[0] > last))
        before = clean(versions, last)
        assert clean([*versions, later], last) == before
        whole = clean([*versions, later], 9)
        assert {key: row for key, row in whole.items() if key[0] <= last} == before

    @given(_versions, st.integers(0, 12))
    @hypothesis_settings(max_examples=12, deadline=None, derandomize=True)
    def test_as_known_then_is_cleaning_with_only_the_versions_that_had_landed(self, versions, cutoff):
        week = FRIDAY + cutoff * WEEK
        had_landed = [v for v in versions if v.at < known_by(week)]
        expected = {key: row["sales"] for key, row in reference(had_landed, 0, cutoff, 99).items() if row["observed"]}
        con = connect(versions)
        if not expected:
            with pytest.raises(ValueError, match="no observed sales"):
                read_panel(con, week, "then")
            return
        panel = read_panel(con, week, "then")
        assert panel.weeks[-1].astype(dt.date) == week
        found = {
            ((panel.weeks[t].astype(dt.date) - FRIDAY).days // 7, str(panel.store[i]), str(panel.dept[i])): x
            for i, row in enumerate(panel.sales) for t, x in enumerate(row.tolist()) if x == x
        }  # fmt: skip
        assert found == expected


class TestVersions:
    def test_a_week_sent_again_replaces_what_it_held(self):
        versions = [landed("a", 1, (0, "1", "1", 5.0), (0, "1", "2", 6.0)), landed("a", 2, (0, "1", "1", 7.0))]
        rows = clean(versions, 0)
        assert sales(rows) == {(0, "1", "1"): 7.0}, "dept 2 is not in the file any more"
        assert rows[0, "1", "1"]["is_restated"]
        assert rows[0, "1", "1"]["landed_at"] == versions[1].at

    def test_across_files_the_row_that_landed_last_counts(self):
        late, early = landed("a", 3, (0, "1", "1", 5.0)), landed("b", 2, (0, "1", "1", 6.0), (0, "2", "1", 7.0))
        rows = clean([late, early], 0)
        assert sales(rows) == {(0, "1", "1"): 5.0, (0, "2", "1"): 7.0}
        assert [rows[0, s, "1"]["source_key"] for s in "12"] == ["a", "b"]
        assert [rows[0, s, "1"]["is_restated"] for s in "12"] == [True, False]

    def test_a_file_put_back_to_its_older_self_counts_again(self):
        rows = clean([landed("a", i, (0, "1", "1", x)) for i, x in ((1, 5.0), (2, 6.0), (3, 5.0))], 0)
        assert sales(rows) == {(0, "1", "1"): 5.0}

    def test_a_version_that_was_refused_does_not_supersede(self):
        versions = [landed("a", 1, (0, "1", "1", 5.0)), landed("a", 2, status="refused")]
        assert sales(clean(versions, 0)) == {(0, "1", "1"): 5.0}

    def test_a_version_without_its_ledger_row_does_not_count_yet(self):
        con = connect([landed("a", 1, (0, "1", "1", 5.0)), landed("b", 2, (0, "1", "1", 6.0), status="ingesting")])
        assert sales(as_dict(clean_table(con, FRIDAY, FRIDAY, 52))) == {(0, "1", "1"): 5.0}

    def test_the_order_of_rows_in_the_table_does_not_matter(self):
        versions = [landed(k, 1, (0, "1", "1", x)) for k, x in (("a", 1.0), ("c", 3.0), ("b", 2.0))]
        for _ in range(5):
            random.Random(0).shuffle(versions)
            assert sales(clean(versions, 0)) == {(0, "1", "1"): 3.0}, "of one moment, the last name"

    def test_a_restatement_to_nothing_is_a_gap(self):
        rows = clean([landed("a", 1, (0, "1", "1", 5.0), (1, "1", "1", 6.0)), landed("b", 2, (1, "1", "1", None))], 1)
        assert sales(rows) == {(0, "1", "1"): 5.0, (1, "1", "1"): None}
        assert rows[1, "1", "1"]["is_restated"]

    def test_nothing_landed(self):
        assert clean([], 3) == {}


class TestGrid:
    def test_gaps_are_rows_without_sales_and_leading_weeks_are_none(self):
        rows = clean([landed("a", 9, (2, "1", "1", 5.0), (5, "1", "1", 6.0))], 7)
        assert sales(rows) == {(w, "1", "1"): {2: 5.0, 5: 6.0}.get(w) for w in range(2, 8)}
        assert {key[0] for key, row in rows.items() if row["observed"]} == {2, 5}
        gap = rows[3, "1", "1"]
        assert (gap["landed_at"], gap["source_key"], gap["is_return"], gap["is_restated"]) == (None, None, False, False)

    @pytest.mark.parametrize("active_weeks", [1, 2, 4])
    def test_a_closed_series_has_no_rows_until_it_sells_again(self, active_weeks):
        rows = clean([landed("a", 9, (0, "1", "1", 5.0), (8, "1", "1", 6.0))], 9, active_weeks=active_weeks)
        weeks = {w for w, _, _ in rows}
        assert weeks == set(range(active_weeks)) | {8, 9} - ({9} if active_weeks == 1 else set())

    def test_a_series_is_open_for_active_weeks_from_its_last_sale_wherever_the_range_begins(self):
        versions = [landed("a", 9, (0, "1", "1", 5.0))]
        assert set(clean(versions, last=9, first=3, active_weeks=5)) == {(3, "1", "1"), (4, "1", "1")}
        assert clean(versions, last=9, first=5, active_weeks=5) == {}

    def test_returns_are_kept_and_flagged(self):
        rows = clean([landed("a", 1, (0, "1", "1", -3.0), (0, "1", "2", 0.0), (0, "1", "3", 1.0))], 0)
        assert {d: (row["sales"], row["is_return"]) for (_, _, d), row in rows.items()} == {
            "1": (-3.0, True), "2": (0.0, False), "3": (1.0, False)
        }  # fmt: skip

    def test_a_holiday_in_any_row_is_a_holiday_of_the_week_in_gaps_too(self):
        rows = clean([landed("a", 5, (0, "1", "1", 1.0), (1, "2", "1", 1.0, True), (2, "1", "1", 1.0))], 2)
        assert {key for key, row in rows.items() if row["is_holiday"]} == {(1, "1", "1"), (1, "2", "1")}
        assert rows[1, "1", "1"]["sales"] is None

    def test_a_holiday_taken_back_is_none(self):
        versions = [landed("a", 1, (0, "1", "1", 1.0, True)), landed("a", 2, (0, "1", "1", 1.0, False))]
        assert not clean(versions, 0)[0, "1", "1"]["is_holiday"]

    @pytest.mark.parametrize("start", [dt.date(2023, 12, 31), dt.date(2024, 1, 3)], ids=["Sunday", "Wednesday"])
    def test_weeks_that_end_on_other_days(self, start):
        versions = [landed("a", 9, (0, "1", "1", 5.0), (3, "1", "1", 6.0), (9, "2", "1", 1.0), first=start)]
        rows = clean(versions, 9, start=start, active_weeks=4)
        assert {row["week"].weekday() for row in rows.values()} == {start.weekday()}
        assert {w for w, s, _ in rows if s == "1"} == set(range(7))
        con = connect(versions, start)
        panel = read_panel(show_cleaned(con, clean_table(con, start, start + 9 * WEEK, 4)), start + 9 * WEEK)
        assert [w.astype(dt.date) for w in panel.weeks] == [start + i * WEEK for i in range(10)]

    def test_across_a_change_of_clocks(self):
        """Steps are days, not hours: a session's time zone with summer time moves nothing."""
        con = connect([landed("a", 30, (0, "1", "1", 5.0), (20, "1", "1", 6.0))])
        try:
            con.execute("SET TimeZone = 'America/New_York'")
        except Exception:
            pytest.skip("DuckDB comes without time zones here")
        assert {w for w, _, _ in as_dict(clean_table(con, FRIDAY, FRIDAY + 20 * WEEK, 52))} == set(range(21))

    def test_the_rows_fit_the_table(self, tmp_path):
        lake = Lake.local(tmp_path / "lake", ("p50",))
        con = connect([landed("a", 9, (0, "1", "1", 5.0), (2, "1", "1", -1.0))])
        rows = clean_table(con, FRIDAY, FRIDAY + 3 * WEEK, 9)
        weeks = [FRIDAY + i * WEEK for i in range(4)]
        assert lake.replace_weeks("cleaned_series", weeks, rows)
        assert not lake.replace_weeks("cleaned_series", weeks, rows)
        assert as_dict(lake.read("cleaned_series")) == as_dict(rows)


class TestAsKnown:
    VERSIONS = (
        landed("w0", 0.5, (0, "1", "1", 10.0)),
        landed("w1", 1.5, (1, "1", "1", 11.0)),
        landed("w1", 2.5, (1, "1", "1", 99.0)),  # restated after the week that followed had ended
        landed("w2", 2.5, (2, "1", "1", 12.0)),
    )

    def panels(self, cutoff: int):
        con = connect(self.VERSIONS)
        show_cleaned(con, clean_table(con, FRIDAY, FRIDAY + 2 * WEEK, 52))
        week = FRIDAY + cutoff * WEEK
        return [read_panel(con, week, mode).sales.tolist() for mode in ("now", "then")]

    def test_now_reads_restated_sales_and_then_what_had_landed(self):
        assert self.panels(1) == [[[10.0, 99.0]], [[10.0, 11.0]]]
        assert self.panels(2) == [[[10.0, 99.0, 12.0]]] * 2

    def test_a_weeks_own_sales_land_before_the_next_week_ends(self):
        assert known_by(FRIDAY) == dt.datetime(2024, 1, 12, tzinfo=dt.UTC)
        at_the_end = Landed("a", known_by(FRIDAY), [(0, "1", "1", 1.0, False)])
        just_before = Landed("a", known_by(FRIDAY) - dt.timedelta(microseconds=1), [(0, "1", "1", 1.0, False)])
        assert read_panel(connect([just_before]), FRIDAY, "then").sales.tolist() == [[1.0]]
        with pytest.raises(ValueError, match="no observed sales"):
            read_panel(connect([at_the_end]), FRIDAY, "then")


class TestCompleteness:
    def lake_like(self, observed: dict[int, list[str]]):
        rows = [
            {"week": FRIDAY + w * WEEK, "store": name[0], "dept": name[1], "sales": 1.0, "observed": True}
            for w, names in observed.items() for name in names
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=SPECS["cleaned_series"].schema)

    def of(self, observed: dict[int, list[str]], week: int) -> Completeness:
        from duckdb import connect as memory

        (found,) = completeness(show_cleaned(memory(), self.lake_like(observed)), [FRIDAY + week * WEEK])
        return found

    def test_expected_are_the_series_of_the_four_weeks_before(self):
        found = self.of({0: ["1a"], 1: ["1b"], 4: ["2a", "2b"], 5: ["1b", "2a", "3a"]}, 5)
        assert (found.expected, found.present, found.rows) == (3, 2, 3)
        assert found.share == pytest.approx(2 / 3)
        assert found.complete(0.66)
        assert not found.complete(0.67)
        assert found.missing_stores == ()

    def test_stores_of_which_nothing_came_are_named(self):
        found = self.of({0: ["1a", "2a", "2b", "3a"], 1: ["1a"]}, 1)
        assert found.missing_stores == ("2", "3")
        assert found.share == 0.25

    def test_the_first_week_is_complete_and_an_empty_one_never(self):
        assert self.of({0: ["1a"]}, 0).complete(1.0)
        assert not self.of({0: ["1a"]}, 1).complete(0.01)
        assert not self.of({0: ["1a"]}, 30).complete(0.01)

    def test_newest_complete_week(self, tmp_path):
        lake = Lake.local(tmp_path / "lake", ("p50",))

        def newest(share: float) -> dt.date | None:
            with lake.connection("cleaned_series") as con:
                return newest_complete_week(con, share)

        assert newest(0.8) is None
        whole = ["1a", "1b", "2a", "2b"]
        rows = self.lake_like({0: whole, 1: whole, 2: whole[:3], 4: ["1a"]})
        lake.replace_weeks("cleaned_series", [FRIDAY + w * WEEK for w in range(5)], rows)
        assert newest(0.8) == FRIDAY + WEEK
        assert newest(0.75) == FRIDAY + 2 * WEEK
        assert newest(0.1) == FRIDAY + 4 * WEEK
