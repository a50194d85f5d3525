from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.deepar import ContractError, SeriesSet
from forecast_platform.deepar.series import Calendar, Frequency, calendar_features, check_dynamic_feat, lags_for

from .conftest import make_hp


def test_dynamic_feat_length_follows_the_mode():
    def build(length):
        return SeriesSet.from_arrays(["2010-02-05"], [[1, 2, 3]], dynamic_feat=[np.ones((1, length))])

    check_dynamic_feat(build(3), 2, inference=False)
    check_dynamic_feat(build(5), 2, inference=True)
    with pytest.raises(ContractError, match=r"series 0: .* 5 values .* training .* len\(target\) = 3"):
        check_dynamic_feat(build(5), 2, inference=False)
    with pytest.raises(ContractError, match=r"4 values .* inference .* prediction_length = 5"):
        check_dynamic_feat(build(4), 2, inference=True)


def test_from_arrays_copies_and_checks():
    target = np.array([1.0, 2.0], dtype=np.float32)
    series = SeriesSet.from_arrays(["2010-02-05"], (target, [0, 2]))
    series.values[0] = 9
    assert target[0] == 1
    with pytest.raises(ContractError, match="1 start times were given for 2 targets"):
        SeriesSet.from_arrays(["2010-02-05"], [[1], [2]])
    with pytest.raises(ContractError, match="series 1: target is empty"):
        SeriesSet.from_arrays(["2010-02-05"] * 2, [[1], []])
    with pytest.raises(ContractError, match="dynamic_feat has a missing or infinite value at position 1"):
        SeriesSet.from_arrays(["2010-02-05"], [[1, 2]], dynamic_feat=[[[1, np.nan]]])
    with pytest.raises(ContractError, match="whole numbers"):
        SeriesSet.from_arrays(["2010-02-05"], [[1]], cat=[[0.5]])


def test_take_keeps_each_series_together():
    series = SeriesSet.from_arrays(
        ["2010-02-05"] * 3, [[1], [2, 3], [4, 5, 6]], [[0], [1], [2]], [np.full((2, n), n) for n in (1, 2, 3)]
    )
    part = series.take([2, 0])
    assert part.values.tolist() == [4, 5, 6, 1]
    assert part.cat.tolist() == [[2], [0]]
    assert part.features(0).tolist() == [[3, 3, 3], [3, 3, 3]]


def test_weekly_features_are_day_of_month_and_iso_week():
    days = [dt.date(2010, 2, 5) + dt.timedelta(7 * k) for k in range(400)]
    got = calendar_features(np.array(days, dtype="datetime64[D]").astype(np.int64), Frequency.parse("1W"))
    want = [((d.day - 1) / 30 - 0.5, (d.isocalendar().week - 1) / 52 - 0.5) for d in days]
    assert got == pytest.approx(np.array(want), abs=1e-6)


@pytest.mark.parametrize("freq", ["1M", "3M", "1W", "1D", "2H", "15min"])
def test_calendar_features_stay_in_range_and_follow_each_start(freq):
    f = Frequency.parse(freq)
    start = np.array(["2011-12-30T05:30:00", "2012-02-29T23:00:00"], dtype="datetime64[s]")
    calendar = Calendar.build(start, f, before=9, last=np.array([50, 40]))
    assert calendar.table.shape[1] == f.num_features
    assert np.abs(calendar.table).max() <= 0.5
    for i in range(2):
        for t in (-9, 0, 17, 40):
            ordinal = f.ordinals(start[i : i + 1]) + t * f.step
            row = calendar.table[calendar.first[i] + calendar.stride * t]
            assert np.array_equal(row, calendar_features(ordinal, f)[0])


def test_minute_features_by_the_clock():
    moment = dt.datetime(2012, 2, 29, 17, 45)
    ordinal = np.array([moment], dtype="datetime64[m]").astype(np.int64)
    got = calendar_features(ordinal, Frequency.parse("15min"))[0] + 0.5
    want = [moment.weekday() / 6, 28 / 30, (moment.timetuple().tm_yday - 1) / 365, 17 / 23, 45 / 59]
    assert got == pytest.approx(want, abs=1e-6)


def test_aligned_series_share_a_calendar_row_a_step():
    start = np.array(["2010-02-05", "2010-02-12"], dtype="datetime64[s]")
    calendar = Calendar.build(start, Frequency.parse("1W"), before=2, last=np.array([10, 10]))
    assert calendar.stride == 1
    assert len(calendar.table) == 2 + 10 + 1 + 1


def test_lags_per_frequency():
    assert lags_for("1W", 1000) == (*range(1, 9), 12, 51, 52, 53, 103, 104, 105, 155, 156, 157)
    assert lags_for("1W", 104) == (*range(1, 9), 12, 51, 52, 53, 103)
    assert lags_for("1W", 1) == (1,)
    assert {12, 24, 36} <= set(lags_for("1M", 100))
    assert {7, 14, 364, 365} <= set(lags_for("1D", 1000))
    assert {24, 168, 8736} <= set(lags_for("1H", 10000))
    assert {4, 96, 672} <= set(lags_for("15min", 10000))
    assert {26, 52} <= set(lags_for("2W", 1000))


def test_sets_in_a_row_are_one_set(series):
    parts = [series.take(range(3)), series.take(range(3, len(series)))]
    whole = SeriesSet.concatenate(parts)
    assert deepar.train(whole, make_hp()).version == deepar.train(series, make_hp()).version
    assert [whole.name(i) for i in range(len(whole))] == [series.name(i) for i in range(len(series))]
