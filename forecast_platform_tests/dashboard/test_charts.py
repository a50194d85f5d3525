"""Charts are text: what they claim is read back from it."""

from __future__ import annotations

import datetime as dt
import html
import itertools
import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from forecast_platform.dashboard.charts import (
    Band,
    Fan,
    Line,
    Mark,
    Spread,
    bars,
    calibration_chart,
    ratio_chart,
    sparkline,
    ticks,
    time_chart,
)
from forecast_platform.words import PLAIN

WEEKS = [dt.date(2025, 1, 3) + dt.timedelta(weeks=k) for k in range(6)]
numbers = st.floats(-1e9, 1e9).map(lambda v: round(v, 3))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0, "0"), (0.25, "0.25"), (0.0032, "0.0032"),
     (4.0, "4"), (12.4, "12"), (1234, "1.2k"), (2000, "2k"),
     (123456, "123k"), (45_300_000, "45.3M"), (-1_500, "-1.5k"), (2e9, "2B")],
)  # fmt: skip
def test_numbers_are_short(value: Any, text: str) -> None:
    assert PLAIN.short(value) == text


@given(numbers, numbers)
def test_ticks_are_evenly_spaced_and_span_the_values(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    steps = [y - x for x, y in itertools.pairwise(found)]
    assert found[0] <= low + 1e-6 * abs(low)
    assert found[-1] >= high - 1e-6 * (abs(high) + abs(low))
    assert (2 if low < high else 1) <= len(found) <= 9
    assert all(step == pytest.approx(steps[0], rel=1e-6) and step > 0 for step in steps)


def parsed(chart: str) -> tuple[ET.Element, dict[str, Any]]:
    figure = whole(chart).find("figure")
    assert figure is not None
    return figure, json.loads(figure.get("data-chart", "{}"))


def whole(chart: str) -> ET.Element:
    """The chart and its table; also proves that they are well-formed."""
    return ET.fromstring(f"<div>{chart}</div>")


def cells(chart: str) -> list[list[str]]:
    """The texts of the table under a chart, row by row."""
    return [["".join(cell.itertext()) for cell in row] for row in whole(chart).findall("details//tr")]


def test_the_pointer_gets_the_values_drawn() -> None:
    chart = time_chart(
        "T",
        WEEKS,
        [Line("sales", "actual", [1, 2, None, 4, None, None])],
        [Band("p10 to p90", "fan0", [None, None, None, 3, 4, 5], [None, None, None, 5, 6, 7], ("p10", "p90"))],
        [Mark(2, "Easter")],
    )
    figure, data = parsed(chart)
    assert data["weeks"] == [str(w) for w in WEEKS]
    assert data["lines"][0]["values"] == [1, 2, None, 4, None, None]
    assert data["bands"][0]["high"] == [None, None, None, 5, 6, 7]
    assert data["marks"] == {"2": "Easter"}
    pictures = figure.findall("svg")  # wide, and narrow for phones
    assert len(pictures) == 2
    for picture in pictures:
        # One stretch of two values is a line, the one alone a dot.
        assert len(picture.findall("path")) == 1
        assert len(picture.findall("circle")) == 1
        assert len(picture.find("polygon").get("points").split()) == 6  # type: ignore[union-attr]


def test_holidays_that_line_nothing_up_are_lighter_and_the_legend_says_so() -> None:
    def drawn(*marks: Mark) -> tuple[list[str | None], list[str]]:
        figure, _ = parsed(time_chart("T", WEEKS, [Line("sales", "actual", [1, 2, 3, 4, 5, 6])], marks=marks))
        keys = ["".join(key.itertext()) for key in figure.findall("figcaption/span/span")]
        return [g.get("class") for g in figure.findall("svg")[0].findall("g") if "mark" in g.get("class", "")], keys

    kept, other = Mark(1, "Easter"), Mark(4, "Fair (not lined up)", lined_up=False)
    assert drawn(kept, other) == (["mark", "mark light"], ["sales", "holiday", "holiday, not lined up"])
    assert drawn(kept) == (["mark"], ["sales", "holiday"])
    assert drawn(other) == (["mark light"], ["sales", "holiday, not lined up"])
    assert drawn() == ([], ["sales"])


def test_a_higher_value_is_drawn_higher_and_later_weeks_to_the_right() -> None:
    figure, _ = parsed(time_chart("T", WEEKS[:3], [Line("s", "actual", [10, 20, 15])]))
    wide, narrow = figure.findall("svg")
    for picture, width in ((wide, 960), (narrow, 400)):
        (path,) = picture.findall("path")
        places = [tuple(map(float, p.split(","))) for p in path.get("d", "")[1:].replace("L", "").split()]
        xs, ys = zip(*places, strict=True)
        assert list(xs) == sorted(xs)
        assert 0 < xs[0] < xs[-1] <= width
        assert ys[1] < ys[2] < ys[0]


def test_names_cannot_break_out() -> None:
    evil = '"><script>alert(1)</script>'
    for chart in (
        time_chart(evil, WEEKS[:2], [Line(evil, "actual", [1, 2])], marks=[Mark(0, evil)]),
        bars(evil, [evil], [Line(evil, "forecast", [0.1])]),
        calibration_chart(evil, [(0.5, 0.4)]),
    ):
        assert "<script" not in chart
        whole(chart)


def test_what_has_no_values_says_so() -> None:
    for chart in (
        time_chart("Sales", [], []),
        time_chart("Sales", WEEKS, [Line("s", "actual", [None] * 6)]),
        bars("Sales", ["1"], [Line("s", "forecast", [None])]),
        calibration_chart("Sales", []),
    ):
        assert chart == '<p class="empty">Sales: nothing to show yet.</p>'
    assert sparkline([1], []) == ""


def test_a_chart_of_weeks_has_all_it_draws_as_a_table() -> None:
    chart = time_chart(
        "T",
        WEEKS,
        [Line("sales", "actual", [1000, 0.004, None, None, None, None])],
        [Band("p10 to p90", "fan0", [None, None, None, 3, 4, 5], [None, None, None, 5, 6, 7], ("p10", "p90"))],
        [Mark(3, "Easter & more")],
    )
    assert cells(chart) == [
        ["Week", "Sales", "p10", "p90", "Holiday"],
        ["2025-01-03", "1,000", "", "", ""],
        ["2025-01-10", "0.004", "", "", ""],
        ["2025-01-24", "", "3.0", "5.0", "Easter & more"],
        ["2025-01-31", "", "4.0", "6.0", ""],
        ["2025-02-07", "", "5.0", "7.0", ""],
    ]
    assert cells(time_chart("T", WEEKS[:1], [Line("e", "naive", [0.0712])], percent=True))[1] == ["2025-01-03", "7.1%"]
    assert cells(calibration_chart("C", [(0.1, 0.123)])) == [["Quantile", "Sales at or below it"], ["p10", "12.3%"]]


def test_an_axis_of_shares_is_not_cut_at_what_should_be() -> None:
    """Coverage of 80% lay on the upper edge of its chart, half of it cut away."""
    figure, _ = parsed(time_chart("T", WEEKS, [Line("s", "naive", [0.8] * 6)], span=(0, 1), percent=True, table=False))
    labels = [t.text for t in figure.findall("svg")[0].findall("text") if t.get("text-anchor") == "end"]
    assert "100%" in labels
    assert "0%" in labels


def test_of_a_few_weeks_each_is_dated() -> None:
    figure, _ = parsed(time_chart("T", WEEKS, [Line("s", "actual", [1] * 6)]))
    wide, narrow = figure.findall("svg")
    dates = [t.text for t in wide.findall("text") if (t.text or "").endswith("2025")]
    assert dates == ["3 Jan 2025", "10 Jan 2025", "17 Jan 2025", "24 Jan 2025", "31 Jan 2025", "7 Feb 2025"]
    assert len([t for t in narrow.findall("text") if (t.text or "").endswith("2025")]) == 3


def test_whoever_hears_the_chart_gets_its_figures() -> None:
    figure, _ = parsed(bars("Error", ["1", "2"], [Line("forecast", "forecast", [0.071, 0.082])]))
    label = html.unescape(figure.find(".//svg").get("aria-label"))  # type: ignore[union-attr]
    assert label == "Error. forecast: 1 7.1%, 2 8.2%"


def test_ratios_lie_by_their_logarithm_about_one() -> None:
    chart = ratio_chart("Regret", ["a", "b", "c"], [Spread("x & y", "forecast", [0.5, 1.0, 2.0], 1.2),
                                                   Spread("z", "naive", [None, 4.0, None], 4.0)])  # fmt: skip
    root = whole(chart)
    wide = next(svg for svg in root.iter("svg") if svg.get("class") == "wide")
    half, one, two, four = (float(dot.get("cx", 0)) for dot in wide.iter("circle"))
    assert one - half == pytest.approx(two - one, abs=0.2)
    assert four - two == pytest.approx(two - one, abs=0.2)
    (at_one,) = (line.get("x1") for line in wide.iter("line") if line.get("class") == "line naive")
    assert float(at_one or 0) == one
    ticks_shown = [text.text for text in wide.iter("text") if text.get("text-anchor") == "middle"]
    assert ticks_shown == sorted(ticks_shown, key=lambda t: float(t or 0))
    assert {"0.5", "1", "2", "3"} <= set(ticks_shown)
    assert "x &amp; y 1.20; z 4.00" in chart
    cells = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert cells == [
        ["Candidate", "A", "B", "C", "Mean"],
        ["x & y", "0.500", "1.000", "2.000", "1.200"],
        ["z", "", "4.000", "", "4.000"],
    ]
    assert "nothing to show yet" in ratio_chart("Regret", ["a"], [Spread("x", "naive", [None], None)])


def test_percent_axes_show_decimals_only_where_needed() -> None:
    small = time_chart("T", WEEKS[:2], [Line("s", "naive", [0.001, 0.02])], from_zero=True, percent=True)
    large = time_chart("T", WEEKS[:2], [Line("s", "naive", [0.1, 0.4])], from_zero=True, percent=True)
    texts = [re.findall(r'text-anchor="end">([^<]*%)<', chart.partition("</svg>")[0]) for chart in (small, large)]
    assert all(len(set(t)) == len(t) for t in texts)
    assert "0.5%" in texts[0]
    assert "40%" in texts[1]


@given(st.lists(st.one_of(st.none(), numbers), max_size=30), st.lists(numbers, max_size=5))
def test_any_series_has_a_well_formed_sparkline(past: list[float | None], ahead: list[float]) -> None:
    picture = sparkline(past, ahead)
    if picture:
        assert "nan" not in picture
        ET.fromstring(picture)


def test_a_fan_is_the_same_on_a_page_and_in_a_picture() -> None:
    fan = Fan(
        WEEKS,
        [
            Line("sales", "actual", [1, 2, None, 4, None, None]),
            Line("forecast (p50)", "forecast", [None] * 3 + [4, 5, 6]),
        ],
        [Band("p05 to p95", "fan0", [None, None, None, 4, 4, 5], [None, None, None, 4, 6, 7], ("p05", "p95"))],
    )
    _, data = parsed(fan.svg("T", PLAIN))
    axes = Figure().add_subplot()
    fan.draw(axes)
    for line, drawn in zip(data["lines"], axes.get_lines(), strict=True):
        assert drawn.get_label() == line["name"]
        np.testing.assert_array_equal(drawn.get_ydata(), np.array(line["values"], dtype=float))
        assert [str(w) for w in drawn.get_xdata()] == data["weeks"]
    (area,) = axes.collections
    assert area.get_label() == "p05 to p95"
    heights = {y for _, y in area.get_paths()[0].vertices}
    assert heights == {4, 5, 6, 7}
    assert axes.get_ylim()[0] == 0
