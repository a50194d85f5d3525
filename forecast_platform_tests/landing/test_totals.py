"""Sums among rows: found whatever they are sums of, and nowhere else; left out in files of one week, too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.landing.by_week import ByWeek
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.judgement import Known, Limits, judge
from forecast_platform.landing.rules import parse_sales
from forecast_platform.landing.totals import Total, totals
from forecast_platform.settings import Settings
from forecast_platform.weeks import WeekCalendar

NEWEST = dt.date(2026, 11, 27)
Sums = Mapping[str, Sequence[int]]
REGIONS: Sums = {"North": (0, 1), "South": (2, 3)}
CHAIN: Sums = {"9999": (0, 1, 2, 3)}


def figures(weeks: int, stores: int, depts: int = 1, seed: int = 0) -> np.ndarray:
    """Sales in cents, shape (weeks, stores, depts): alike in their season, each with changes of its own."""
    rng = np.random.default_rng(seed)
    season = 1 + 0.3 * np.sin(np.arange(weeks) / 8)
    usual = rng.lognormal(6, 1, (stores, depts))
    sales: np.ndarray = season[:, None, None] * usual * rng.lognormal(0, 0.1, (weeks, stores, depts))
    return np.round(sales, 2)


def text(sales: np.ndarray, sums: Sums, of_depts: Sums | None = None) -> str:
    """A file of stores 1, 2 ... and departments a, b ..., and of sums of them."""
    lines = ["store,dept,date,weekly_sales"]
    stores = {str(i + 1): (i,) for i in range(sales.shape[1])} | dict(sums)
    depts = {chr(97 + i): (i,) for i in range(sales.shape[2])} | dict(of_depts or {})
    for n, week in enumerate(sales):
        day = NEWEST - dt.timedelta(weeks=len(sales) - 1 - n)
        lines += [
            f"{store},{dept},{day},{week[np.ix_(list(rows), list(columns))].sum():.2f}"
            for store, rows in stores.items()
            for dept, columns in depts.items()
        ]
    return "\n".join(lines) + "\n"


def read(data: str, setting: Any = "refuse") -> ByWeek:
    dialect = Dialect("", totals=setting)
    return parse_sales(data.encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST).sales


def names(found: list[Total]) -> dict[str, tuple[str, ...]]:
    return {total.name: total.of for total in found}


# --- found


@pytest.mark.parametrize("column", ["store", "dept"])
def test_sums_of_some_are_found_with_what_they_are_sums_of(column: str) -> None:
    sales = figures(20, 4)
    data = text(sales, {**REGIONS, **CHAIN})
    if column == "dept":
        data = data.replace("store,dept", "dept,store")
    found = totals(read(data))
    assert [t.column for t in found] == [column] * 3
    assert names(found) == {"North": ("1", "2"), "South": ("3", "4"), "9999": ("1", "2", "3", "4")}
    assert [t.what for t in found] == [
        "the sum of '1' and '2'",
        "the sum of '3' and '4'",
        "the sum of all others that are no sums",
    ]


def test_a_week_of_many_departments_shows_as_much_as_many_weeks() -> None:
    assert set(names(totals(read(text(figures(1, 4, 12), REGIONS))))) == set(REGIONS)
    assert not totals(read(text(figures(1, 4, 4), REGIONS))), "too few to tell"


def test_a_region_of_one_store_is_a_copy_among_sums() -> None:
    found = totals(read(text(figures(20, 3), {"North": (0, 1), "South": (2,), "Shops": (0, 1, 2)})))
    assert {t.name: t.what for t in found} == {
        "North": "the sum of '1' and '2'",
        "South": "the same as '3'",
        "Shops": "the sum of all others that are no sums",
    }


def test_one_week_equal_to_all_others_to_the_cent_is_a_sum() -> None:
    sales = figures(1, 4)
    assert set(names(totals(read(text(sales, CHAIN))))) == {"9999"}
    assert not totals(read(text(sales, CHAIN).replace(f"{sales.sum():.2f}", f"{sales.sum() + 0.01:.2f}")))
    assert not totals(read(text(np.array([[[5.0], [6], [7], [8]]]), CHAIN))), "small counts are equal by chance"


def test_regions_of_sums_rounded_each_for_itself_are_found() -> None:
    sales = figures(30, 6) * 100
    data = text(sales, {"North": (0, 1, 2)})
    rounded = [",".join([*line.split(",")[:3], f"{float(line.split(',')[3]):.0f}"]) for line in data.split("\n")[1:-1]]
    assert set(names(totals(read("\n".join([data.split("\n")[0], *rounded]) + "\n")))) == {"North"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_hierarchy_is_found_and_nothing_else(data: st.DataObject) -> None:
    """Every store is in one region of two or more, or in none; a chain may stand above."""
    stores = data.draw(st.integers(4, 25))
    order = data.draw(st.permutations(range(stores)))
    cuts = sorted(data.draw(st.sets(st.integers(1, stores - 1), max_size=4)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, stores], strict=True)]
    kept = [sorted(part) for part in parts if 2 <= len(part) < stores and data.draw(st.booleans())]
    sums = {f"R{i}": tuple(part) for i, part in enumerate(kept)}
    if data.draw(st.booleans()):
        sums["chain"] = tuple(range(stores))
    sales = figures(data.draw(st.integers(stores + 5, 80)), stores, 1, data.draw(st.integers(0, 99)))
    expected = {name: tuple(str(i + 1) for i in part) for name, part in sums.items()}
    assert names(totals(read(text(sales, sums)))) == expected


# --- no false alarm


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(3, 40), st.integers(0, 10**6), st.sampled_from([0, 5, 100, 10_000]))
def test_independent_sales_are_never_sums(weeks: int, stores: int, seed: int, pieces: int) -> None:
    """Money, or pieces of which some weeks hold few."""
    sales = figures(weeks, stores, 1, seed)
    if pieces:
        sales = np.random.default_rng(seed).poisson(pieces * sales / sales.mean()).astype(float)
    assert not totals(read(text(sales, {})))


def test_a_name_that_sells_when_no_other_does_is_no_sum() -> None:
    sales = figures(40, 3)
    sales[:20, 2] = 0
    sales[20:, :2] = 0
    sales[:, 2] *= 100
    assert totals(read(text(sales, {}))) == []


def test_figures_made_up_by_one_pattern_add_up_by_themselves() -> None:
    weeks = np.arange(1, 31)[:, None, None]
    for pattern in (np.ones_like(weeks), weeks, 100 + weeks % 7):
        assert not totals(read(text(pattern * np.array([100.0, 200, 300, 700, 500])[None, :, None], {})))


def test_the_demo_has_no_sums() -> None:
    from forecast_platform.demo import history_files, make_retailer

    retailer = make_retailer()
    last = dt.date(2025, 10, 31)
    data = history_files(retailer, last)["sales/sales_history.csv.gz"]
    parsed = parse_sales(data, "sales/sales_history.csv.gz", Dialect.named("canonical"), WeekCalendar(), last)
    assert parsed.accepted_rows > 20_000
    assert not totals(parsed.sales)


# --- left out


def test_names_are_left_out_wherever_they_stand_and_only_in_their_column() -> None:
    data = text(figures(1, 4, 2), {**REGIONS, "a": (0,)})
    dialect = Dialect("", totals={"store": ("North", "South", "a")})
    parsed = parse_sales(data.encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST)
    assert parsed.sales.names_left("store") == ["1", "2", "3", "4"]
    assert parsed.sales.names_left("dept") == ["a", "b"]
    assert parsed.rows == parsed.accepted_rows + len(parsed.rejected) == 14
    assert set(parsed.rejected["message"].to_pylist()) == {
        f"store {name!r} is named as a sum by FORECAST_TOTALS, and left out" for name in ("North", "South", "a")
    }
    assert judge(parsed, Known(()), "sales/a.csv", dialect, Limits()).refusal is None


def test_names_are_spelled_as_keys_are() -> None:
    dialect = Dialect("", totals={"store": (" 09999 ",)}, normalise_keys=("numbers",))
    parsed = parse_sales(text(figures(1, 4), CHAIN).encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST)
    assert parsed.sales.names_left("store") == ["1", "2", "3", "4"]


def test_days_of_a_sum_are_left_out_with_a_note() -> None:
    days = [f"{s},a,2026-11-{d},{s}0" for d in range(14, 28) for s in (1, 2)]
    data = "\n".join(["store,dept,date,weekly_sales", *days, *(f"N,a,2026-11-{d},30" for d in range(14, 28))]) + "\n"
    dialect = Dialect("", aggregate="sum", totals={"store": ("N",)})
    parsed = parse_sales(data.encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST)
    assert parsed.sales.names_left("store") == ["1", "2"]
    assert "store 'N' is named as a sum by FORECAST_TOTALS: left out" in parsed.notes


def test_left_out_are_those_named_so_and_others_are_asked_for_by_name() -> None:
    dialect = Dialect("", totals="leave_out")
    data = text(figures(20, 4), {**REGIONS, "Total": (0, 1, 2, 3)})
    parsed = parse_sales(data.encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST)
    assert set(parsed.rejected["message"].to_pylist()) == {
        "store 'Total' is the sum of all others that are no sums, and left out"
    }
    refusal = judge(parsed, Known(()), "sales/a.csv", dialect, Limits()).refusal
    assert refusal is not None
    assert "store 'North' is the sum of '1' and '2'; store 'South' is the sum of '3' and '4'" in refusal.message
    assert """FORECAST_TOTALS='{"store": ["North", "South"]}'""" in refusal.message
    assert 'totals = {store = ["North", "South"]}' in refusal.message


def test_a_new_sum_is_asked_for_beside_those_named_by_now() -> None:
    dialect = Dialect("", totals={"store": ("North",), "dept": ("z",)})
    parsed = parse_sales(text(figures(20, 4), REGIONS).encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST)
    refusal = judge(parsed, Known(()), "sales/a.csv", dialect, Limits()).refusal
    assert refusal is not None
    assert 'totals = {store = ["North", "South"], dept = ["z"]}' in refusal.message


def test_a_name_like_a_sum_that_cannot_be_told_is_warned_about() -> None:
    data = text(figures(1, 4), {**REGIONS, "Total": (0, 1, 2, 3)})
    parsed = parse_sales(data.encode(), "sales/a.csv", Dialect(""), WeekCalendar(), NEWEST)
    verdict = judge(parsed, Known(()), "sales/a.csv", Dialect(""), Limits())
    assert verdict.refusal is None
    assert any("store 'Total' is named like a sum" in warning for warning in verdict.warnings)


def test_rows_of_a_sum_in_weeks_that_landed_before_it_was_named_are_told_of() -> None:
    before = read(text(figures(1, 4), REGIONS)).table()
    dialect = Dialect("", totals={"store": ("North",)})
    other_week = text(figures(1, 4), {}).replace("2026-11-27", "2026-11-20")
    for data, told in ((other_week, True), (text(figures(1, 4), {}), False)):
        parsed = parse_sales(data.encode(), "sales/b.csv", dialect, WeekCalendar(), NEWEST)
        warnings = judge(parsed, Known(before), "sales/b.csv", dialect, Limits()).warnings
        assert (
            any("left out as a sum: store 'North'; files of other weeks have such rows" in w for w in warnings) is told
        )


# --- the setting


def test_the_setting_takes_words_and_names(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("FORECAST_TOTALS", "leave_out")
    assert Settings().contract.totals == "leave_out"
    monkeypatch.setenv("FORECAST_TOTALS", '{"store": ["North", 9999]}')
    assert Settings().contract.totals == {"store": ("North", "9999")}
    monkeypatch.delenv("FORECAST_TOTALS")
    home.mkdir(exist_ok=True)
    (home / "settings.toml").write_text("totals = {dept = [99]}\n")
    assert Settings().contract.totals == {"dept": ("99",)}


@pytest.mark.parametrize("value", ["drop", '["North"]', '{"shop": ["North"]}', "{"])
def test_what_is_neither_is_refused_with_what_to_write(value: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("FORECAST_TOTALS", value)
    with pytest.raises(ValueError, match=r"totals[\s\S]*store"):
        Settings()
