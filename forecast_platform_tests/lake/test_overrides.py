"""A person's figure lies beside the forecast and changes nothing in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.lake.lake import Lake
from forecast_platform.lake.overrides import OverrideRefused, add_override

WEEK = dt.date(2025, 1, 31)
NEXT = WEEK + dt.timedelta(weeks=1)
NOW = dt.datetime(2025, 2, 1, 9, tzinfo=dt.UTC)


LEVELS = (("series", "1", "2"), ("series", "1", "3"), ("store", "1", None), ("dept", None, "2"), ("total", None, None))


def publish(lake: Lake, week: dt.date = WEEK, levels: Sequence[tuple[str, str | None, str | None]] = LEVELS) -> None:
    """Forecasts of the weeks after `week`: p50 is 2 for a series and 7 for sums, which is not the sum of the 2s."""
    rows = [
        {"forecast_week": week, "level": level, "store": store, "dept": dept, "horizon": h, "p10": 1.0,
         "p50": 2.0 if level == "series" else 7.0, "p90": 9.0, "mean": 2.0,
         "target_week": week + dt.timedelta(weeks=h), "model_version": "m", "as_known": "now", "run_id": "r",
         "created_at": NOW}
        for level, store, dept in levels
        for h in (1, 2)
    ]  # fmt: skip
    lake.replace_weeks("forecasts", [week], pa.Table.from_pylist(rows, schema=lake.specs["forecasts"].schema))


def give(lake: Lake, **changes: Any) -> None:
    asked: dict[str, Any] = {"store": "1", "dept": "2", "target_week": NEXT, "value": 5.0, "reason": "fair in town",
                             "author": "ana", "expires": NEXT, "now": NOW}  # fmt: skip
    add_override(lake, **(asked | changes))


def shown(lake: Lake) -> dict[tuple[Any, ...], Any]:
    rows = lake.query("SELECT * FROM forecast_with_overrides").to_pylist()
    return {(r["store"], r["dept"], r["target_week"]): (r["override"], r["plan"]) for r in rows}


def test_it_lies_beside_the_forecast_and_never_over_it(lake: Lake) -> None:
    publish(lake)
    before, state = lake.read("forecasts"), lake.snapshot("forecasts")
    give(lake)
    later = NEXT + dt.timedelta(weeks=1)
    assert shown(lake) == {
        ("1", "2", NEXT): (5.0, 5.0),
        ("1", "3", NEXT): (None, 2.0),
        # Their own p50, moved by what the figure adds to its series' p50.
        ("1", None, NEXT): (None, 10.0),
        (None, "2", NEXT): (None, 10.0),
        (None, None, NEXT): (None, 10.0),
        ("1", "2", later): (None, 2.0),
        ("1", "3", later): (None, 2.0),
        ("1", None, later): (None, 7.0),
        (None, "2", later): (None, 7.0),
        (None, None, later): (None, 7.0),
    }
    assert lake.read("forecasts") == before
    assert lake.snapshot("forecasts") == state


figures = st.dictionaries(
    st.tuples(st.sampled_from("12"), st.sampled_from("ab")), st.floats(0, 100).map(lambda v: round(v, 2)), max_size=4
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(figures)
def test_every_sum_is_moved_by_what_its_series_are_moved_by(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[tuple[str, str], float]
) -> None:
    lake = Lake.local(tmp_path_factory.mktemp("sums") / "lake", ("p10", "p50", "p90"))
    series = [("series", s, d) for s in "12" for d in "ab"]
    publish(lake, levels=[*series, *(("store", s, None) for s in "12"), *(("dept", None, d) for d in "ab"),
                          ("total", None, None)])  # fmt: skip
    for k, ((store, dept), value) in enumerate(wanted.items()):
        give(lake, store=store, dept=dept, value=value, now=NOW + dt.timedelta(minutes=k))
    rows = [r for r in lake.query("SELECT * FROM forecast_with_overrides").to_pylist() if r["target_week"] == NEXT]
    assert len(rows) == 9
    for r in rows:
        own = {k: v for k, v in wanted.items() if r["store"] in (None, k[0]) and r["dept"] in (None, k[1])}
        assert r["plan"] == pytest.approx(r["p50"] + sum(v - 2.0 for v in own.values()))


def test_the_newest_counts_and_the_older_is_kept(lake: Lake) -> None:
    publish(lake)
    give(lake)
    give(lake, value=7.0, now=NOW + dt.timedelta(hours=1))
    assert shown(lake)["1", "2", NEXT] == (7.0, 7.0)
    assert len(lake.read("overrides")) == 2


def test_it_expires_and_can_be_withdrawn(lake: Lake) -> None:
    publish(lake)
    give(lake, target_week=NEXT + dt.timedelta(weeks=1), expires=WEEK)
    assert shown(lake)["1", "2", NEXT + dt.timedelta(weeks=1)] == (5.0, 5.0)
    publish(lake, NEXT)  # a newer forecast: the override held for the one of WEEK only
    assert shown(lake)["1", "2", NEXT + dt.timedelta(weeks=1)] == (None, 2.0)
    publish(lake)
    give(lake, target_week=NEXT + dt.timedelta(weeks=1), expires=dt.date(2000, 1, 1), now=NOW + dt.timedelta(hours=2))
    assert shown(lake)["1", "2", NEXT + dt.timedelta(weeks=1)] == (None, 2.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"store": "9"}, "no store 9, department 2"),
        ({"target_week": WEEK}, "reaches from 2025-02-07 to 2025-02-14; 2025-01-31 is not in it"),
        ({"value": float("nan")}, "the value is nan"),
        ({"reason": " "}, "needs a reason"),
        ({"author": ""}, "needs a author"),
    ],
)
def test_what_is_missing_is_said_and_nothing_kept(lake: Lake, changes: dict[str, Any], says: str) -> None:
    publish(lake)
    with pytest.raises(OverrideRefused, match=says):
        give(lake, **changes)
    assert len(lake.read("overrides")) == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=40).filter(lambda t: t.strip() and t.isprintable()))
def test_any_reason_comes_back_as_it_was(lake: Lake, text: str) -> None:
    if lake.snapshot("forecasts") is None:
        publish(lake)
    give(lake, reason=text)
    assert lake.read("overrides")["reason"].to_pylist() == [text.strip()]
