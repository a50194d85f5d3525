"""What the weeks known already say of a file, and how numbers and dates of any style are read."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.judgement import Known, Limits, Verdict, judge
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.rules import parse_sales
from forecast_platform.landing.values import COMMA, POINT, DateStyle, NumberStyle, to_numbers
from forecast_platform.weeks import WeekCalendar

CANONICAL = Dialect.named("canonical")
NEWEST = dt.date(2026, 11, 27)
HEAD = "store,dept,date,weekly_sales\n"


def known(stores: dict[str, float], weeks: int = 20, last: dt.date = dt.date(2026, 11, 20)) -> Known:
    """Stores of one department that sold about as much in each of the weeks up to `last`."""
    days = [last - dt.timedelta(days=7 * i) for i in range(weeks)]
    rows = [(s, "a", day, usual * (1 + 0.01 * i)) for s, usual in stores.items() for i, day in enumerate(days)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Known(
        pa.table(
            [pa.array(columns[0]), pa.array(columns[1]), pa.array(columns[2], pa.date32()), pa.array(columns[3])],
            ["store", "dept", "week", "sales"],
        ),
        ("store", "dept", "date", "weekly_sales"),
    )


def verdict(text: str, before: Known, dialect: Dialect = CANONICAL, header: str = HEAD) -> Verdict:
    parsed = parse_sales((header + text).encode(), "sales/a.csv", dialect, WeekCalendar(), NEWEST)
    return judge(parsed, before, "sales/a.csv", dialect, Limits())


# --- size


@pytest.mark.parametrize("factor", [0.001, 0.01, 100, 1000])
def test_a_file_of_another_unit_is_refused_and_can_be_accepted(factor: float) -> None:
    found = verdict(f"1,a,2026-11-27,{100 * factor}\n2,a,2026-11-27,{900 * factor}\n", known({"1": 100, "2": 900}))
    assert found.refusal is not None
    assert found.refusal.rule == "other_size"
    assert "forecast landing accept sales/a.csv" in found.refusal.message
    assert found.acceptable


def test_one_store_that_collapses_is_warned_about_by_name() -> None:
    found = verdict(
        "1,a,2026-11-27,10\n2,a,2026-11-27,900\n3,a,2026-11-27,500\n", known({"1": 100, "2": 900, "3": 500})
    )
    assert found.refusal is None
    assert any("1 of 3 stores sold far more or less" in text and "1 (0.09" in text for text in found.warnings)


def test_a_christmas_is_no_other_unit() -> None:
    found = verdict("1,a,2026-11-27,350\n2,a,2026-11-27,3000\n", known({"1": 100, "2": 900}))
    assert found == Verdict()


def test_a_new_store_has_nothing_to_be_compared_with() -> None:
    assert verdict("7,a,2026-11-27,99999\n", known({"1": 100})).refusal is None


# --- days and months


def test_a_day_and_month_that_swapped_are_the_next_week_are_refused() -> None:
    # The third of February and the second of March 2012 are both Fridays.
    dialect = CANONICAL.replace(date_format="%d/%m/%Y")
    before = known({"1": 100}, last=dt.date(2012, 2, 24))
    found = verdict("1,a,03/02/2012,140\n", before, dialect)
    assert found.refusal is not None
    assert found.refusal.rule == "swapped_dates"
    assert "changes 2012-02-03" in found.refusal.message
    assert "it would be 2012-03-02" in found.refusal.message
    assert found.acceptable
    assert verdict("1,a,02/03/2012,140\n", before, dialect).refusal is None


# --- columns and names


def test_columns_that_come_and_go_are_named() -> None:
    found = verdict("1,a,2026-11-27,100,x\n", known({"1": 100}), header="store,dept,date,weekly_sales,region\n")
    assert any("newly has region" in text for text in found.warnings)


def test_a_name_that_looks_like_a_known_one_is_warned_about() -> None:
    found = verdict("8,a,2026-11-27,100\n", known({"08": 100}))
    assert any("'8' and '08'" in text and "FORECAST_NORMALISE_KEYS=numbers" in text for text in found.warnings)


def test_two_equal_stores_are_no_total() -> None:
    assert verdict("1,a,2026-11-27,100\n2,a,2026-11-27,100\n", known({"1": 100, "2": 100})).refusal is None


def test_partly_refused_is_said() -> None:
    rows = "".join(f"{s},a,2026-11-27,100\n" for s in range(9))
    found = verdict(rows + "9,a,2026-11-27,x\n", known({"1": 100}))
    assert any("1 of 10 rows were refused, 1 of them by not_a_number" in text for text in found.warnings)


# --- numbers of any style


def written(value: int, cents: int, decimal: str, group: str) -> str:
    whole = f"{value:,}".replace(",", group)
    return f"{whole}{decimal}{cents:02}"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 99)), min_size=1, max_size=20),
    st.sampled_from(
        [(",", "."), (".", ","), (",", "\u00a0"), (",", "\u202f"), (".", "'"), (".", "\u2019"), (".", " ")]
    ),
    st.booleans(),
)
def test_a_number_is_read_in_its_style_and_never_in_another(
    values: list[tuple[int, int]], signs: tuple[str, str], minus: bool
) -> None:
    decimal, group = signs
    sign = "-" if minus else ""
    texts = pa.array([sign + written(*value, decimal, group) for value in values])
    style = {",": COMMA, ".": POINT}[decimal]
    expected = [(-1 if minus else 1) * (value + cents / 100) + 0.0 for value, cents in values]
    assert to_numbers(texts, style).to_pylist() == pytest.approx(expected)
    # The other style reads none of them: both signs stand for something else there.
    other = NumberStyle(*(POINT.decimal, ",") if decimal == "," else (COMMA.decimal, "."))
    assert to_numbers(texts, other).null_count == len(texts)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(1000, 999_999), min_size=1, max_size=20), st.sampled_from([".", ","]))
def test_thousands_without_a_word_are_never_read_as_small_numbers(values: list[int], group: str) -> None:
    rows = "".join(f'{i},a,2026-11-20,"{f"{value:,}".replace(",", group)}"\n' for i, value in enumerate(values))
    with pytest.raises(FileRefused) as refusal:
        parse_sales((HEAD + rows).encode(), "a.csv", CANONICAL, WeekCalendar(), NEWEST)
    assert refusal.value.rule == "number_style"


# --- dates of any style

_STYLES = ["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d", "%d-%b-%Y", "%G-W%V"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dates(dt.date(1990, 1, 5), dt.date(2049, 12, 31)).map(
        lambda day: day + dt.timedelta(days=(4 - day.weekday()) % 7)
    ),
    st.sampled_from(_STYLES),
    st.sampled_from(["", " 00:00:00", "T00:00:00", " 00:00"]),
)
def test_a_date_is_read_back_in_its_style(day: dt.date, form: str, midnight: str) -> None:
    text = f"{day:{form}}" + ("" if "%V" in form else midnight)
    assert DateStyle((form,)).days(pa.array([text])).tolist() == [day]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dates(dt.date(2020, 1, 3), dt.date(2025, 12, 31)), st.integers(12, 40))
def test_a_swapped_day_and_month_is_refused_or_right(first: dt.date, weeks: int) -> None:
    first += dt.timedelta(days=(4 - first.weekday()) % 7)
    days = [first + dt.timedelta(days=7 * i) for i in range(weeks)]
    text = HEAD + "".join(f"1,a,{day:%m/%d/%Y},{i}\n" for i, day in enumerate(days))
    with pytest.raises(FileRefused, match=r"%m/%d/%Y"):
        parse_sales(text.encode(), "a.csv", CANONICAL.replace(date_format="%d/%m/%Y"), WeekCalendar(), NEWEST)


# --- like with like


def test_a_file_of_one_department_is_held_against_that_department() -> None:
    rows = [
        ("1", dept, dt.date(2026, 11, 20) - dt.timedelta(weeks=i), 1000.0)
        for dept in map(str, range(40))
        for i in range(9)
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    types = (pa.string(), pa.string(), pa.date32(), pa.float64())
    before = Known(
        pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], ["store", "dept", "week", "sales"])
    )
    assert verdict("1,7,2026-11-27,1010\n", before) == Verdict()
    found = verdict("1,7,2026-11-27,10\n", before)
    assert found.refusal is not None
    assert found.refusal.rule == "other_size"


def test_rows_of_two_days_a_week_are_days() -> None:
    days = [dt.date(2026, 10, 2) + dt.timedelta(days=d + 7 * i) for i in range(8) for d in (0, 4)]
    text = HEAD + "".join(f"1,a,{day},10\n" for day in days)
    with pytest.raises(FileRefused, match="FORECAST_AGGREGATE=sum"):
        parse_sales(text.encode(), "a.csv", CANONICAL, WeekCalendar(), NEWEST)


def test_small_counts_that_add_up_by_chance_are_no_total() -> None:
    rows = "".join(
        f"{s},a,2026-11-{d},{v}\n" for d in ("13", "20", "27") for s, v in zip("1234", (1, 0, 1, 2), strict=True)
    )
    assert verdict(rows, Known(known({"9": 1}).rows.slice(0, 0))).refusal is None
