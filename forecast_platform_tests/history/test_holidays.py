"""Holidays: on their days, from the calendar a retailer landed or from his country, and never invented."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from forecast_platform.demo import make_retailer
from forecast_platform.history.holidays import OTHER_WINDOW, WINDOWS, Event, events_for, retail_events
from forecast_platform.models.last_year.reference import one_year_back

FIRST, LAST = dt.date(2010, 2, 5), dt.date(2012, 10, 26)


def dates(events: tuple[Event, ...]) -> dict[str, list[dt.date]]:
    """Dates by name; an event parted in two is one list of them."""
    found: dict[str, list[dt.date]] = {}
    for event in events:
        found.setdefault(event.name, []).extend(event.dates)
    return found


def yearly(name: str, *days: str) -> list[tuple[str, dt.date]]:
    return [(name, dt.date.fromisoformat(day)) for day in days]


def landed(*calendar, country: str = "US", first=FIRST, last=LAST) -> tuple[Event, ...]:
    return events_for(first, last, [day for days in calendar for day in days], country)


class TestCountries:
    def test_the_us(self):
        found = dates(retail_events(FIRST, LAST))
        assert found["Thanksgiving"] == [dt.date(y, 11, d) for y, d in
                                         [(2009, 26), (2010, 25), (2011, 24), (2012, 22), (2013, 28)]]  # fmt: skip
        assert found["Christmas"] == [dt.date(y, 12, 25) for y in range(2009, 2014)]
        assert found["Easter"] == [dt.date(2009, 4, 12), dt.date(2010, 4, 4), dt.date(2011, 4, 24), dt.date(2012, 4, 8),
                                   dt.date(2013, 3, 31)]  # fmt: skip
        assert found["Super Bowl"][-2:] == [dt.date(2012, 2, 5), dt.date(2013, 2, 3)]
        assert "Labor Day" not in found, "364 days apart in all these years: nothing to line up"

    def test_labor_day_is_lined_up_in_the_years_it_moves(self):
        found = dates(retail_events(dt.date(2013, 1, 4), dt.date(2015, 12, 25)))
        assert [str(day) for day in found["Labor Day"]] == [
            "2012-09-03", "2013-09-02", "2014-09-01", "2015-09-07", "2016-09-05",
        ]  # fmt: skip

    def test_the_super_bowl_by_the_rule_of_its_year(self):
        found = dates(retail_events(dt.date(2021, 1, 1), dt.date(2023, 12, 29)))
        assert [str(day) for day in found["Super Bowl"]] == [
            "2020-02-02", "2021-02-07", "2022-02-13", "2023-02-12", "2024-02-11",
        ]  # fmt: skip

    @pytest.mark.parametrize(("country", "has", "lacks"), [
        ("DE", {"Easter", "Christmas", "Pentecost", "Labor Day"}, {"Thanksgiving", "Super Bowl"}),
        ("gb", {"Easter", "Christmas"}, {"Thanksgiving"}),
        ("CN", {"Lunar New Year"}, {"Easter", "Christmas"}),
        ("IN", {"Diwali", "Christmas"}, {"Thanksgiving"}),
        ("AE", {"Eid al-Fitr", "Eid al-Adha"}, {"Christmas"}),
    ])  # fmt: skip
    def test_each_country_keeps_its_own(self, country, has, lacks):
        found = set(dates(retail_events(FIRST, LAST, country)))
        assert has <= found
        assert not lacks & found

    def test_easter_is_the_countrys_and_the_same_from_whichever_day_it_is_told(self):
        assert dates(retail_events(FIRST, LAST, "DE"))["Easter"] == dates(retail_events(FIRST, LAST))["Easter"]
        assert dates(retail_events(FIRST, LAST, "GR"))["Easter"][-1] == dt.date(2013, 5, 5), "the orthodox one"

    @pytest.mark.parametrize("country", ["XX", "", "Germany"])
    def test_an_unknown_country(self, country):
        with pytest.raises(ValueError, match="write an ISO code such as US, DE or GB, or land a calendar") as error:
            retail_events(FIRST, LAST, country)
        assert repr(country.upper()) in str(error.value)

    def test_each_years_date_is_about_a_year_after_the_last(self):
        for country in ("US", "DE", "IN", "AE", "CN", "BR", "JP"):
            found = retail_events(dt.date(2005, 1, 7), dt.date(2033, 12, 30), country)
            assert found, country
            for event in found:
                assert len(event.dates) >= 28
                assert (np.diff(np.array(event.dates, "datetime64[D]")).astype(int) > 339).all()
                assert (np.diff(np.array(event.dates, "datetime64[D]")).astype(int) < 400).all()
                assert (event.before, event.after) == WINDOWS[event.name]


class TestLandedCalendars:
    def test_none_landed_is_the_countrys(self):
        assert landed() == retail_events(FIRST, LAST)

    def test_a_name_of_two_years_running_is_an_event_with_the_usual_window(self):
        (event,) = landed(yearly("Founders Day", "2010-06-02", "2011-06-15", "2012-06-13"))
        assert event == Event("Founders Day", tuple(d for _, d in yearly("", "2010-06-02", "2011-06-15", "2012-06-13")),
                              *OTHER_WINDOW)  # fmt: skip

    @pytest.mark.parametrize("days", [["2011-06-15"], ["2010-06-02", "2012-06-13"], ["2010-06-02", "2010-12-01"]])
    def test_what_does_not_come_every_year_is_none(self, days):
        assert landed(yearly("Sale", *days)) == ()

    def test_what_stays_52_weeks_apart_needs_no_lining_up(self):
        assert landed(yearly("Sale", "2010-06-04", "2011-06-03", "2012-06-01")) == ()

    def test_a_year_left_out_parts_an_event(self):
        found = landed(yearly("Sale", "2008-06-10", "2009-06-11", "2011-06-10", "2012-06-15"))
        assert [len(event.dates) for event in found] == [2, 2]

    def test_days_of_one_feast_are_its_first(self):
        days = [f"{y}-07-{d:02}" for y in (2010, 2011) for d in (3 + y % 2, 10, 20)]
        assert dates(landed(yearly("Summer", *days))) == {"Summer": [dt.date(2010, 7, 3), dt.date(2011, 7, 4)]}

    def test_well_known_names_have_their_window_and_parts_of_a_feast_are_one_event(self):
        found = landed(
            yearly("Good Friday", "2010-04-02", "2011-04-22", "2012-04-06"),
            yearly("EASTER", "2010-04-04", "2011-04-24", "2012-04-08"),
            yearly("Easter Monday", "2010-04-05", "2011-04-25", "2012-04-09"),
            yearly("1. Weihnachtsfeiertag", "2009-12-25", "2010-12-25", "2011-12-25"),
        )
        assert {(e.name, e.before, e.after) for e in found} == {("Easter", 2, 1), ("Christmas", 3, 1)}
        assert dates(found)["Easter"][1:3] == [dt.date(2010, 4, 4), dt.date(2011, 4, 24)], "from 2009 by the rule"

    def test_beyond_the_calendar_known_events_go_on_by_the_countrys_rule_and_others_end(self):
        found = dates(landed(
            yearly("Thanksgiving", "2010-11-25", "2011-11-24"),
            yearly("Founders Day", "2010-06-02", "2011-06-15"),
        ))  # fmt: skip
        assert [str(d) for d in found["Thanksgiving"]] == [
            "2009-11-26", "2010-11-25", "2011-11-24", "2012-11-22", "2013-11-28",
        ]  # fmt: skip
        assert len(found["Founders Day"]) == 2
        assert "Christmas" not in found, "the calendar is taken at its word"

    def test_another_countrys_rule_adds_nothing(self):
        labour = yearly("Labour Day", "2010-05-01", "2011-05-01", "2012-05-01")
        years = (dt.date(2013, 1, 4), dt.date(2015, 12, 25))
        assert dates(landed(labour, first=years[0], last=years[1])) == {"Labor Day": [day for _, day in labour]}
        assert len(dates(landed(labour, first=years[0], last=years[1], country="DE"))["Labor Day"]) == 7
        orthodox = yearly("Easter", "2012-04-15", "2013-05-05")
        assert len(dates(landed(orthodox))["Easter"]) == 2
        assert dates(landed(orthodox, country="GR"))["Easter"][-2:] == [d for _, d in orthodox]

    def test_the_demos_calendar_is_the_us(self):
        retailer = make_retailer(stores=1, depts=1)
        first, last = (w.astype(dt.date) for w in retailer.weeks[[0, -1]])
        found, rule = dates(events_for(first, last, retailer.holidays, "US")), dates(retail_events(first, last))
        for name in ("Thanksgiving", "Christmas", "Easter"):
            assert set(rule[name]) <= set(found[name])
        assert {"Valentine's Day", "Halloween", "Independence Day", "Memorial Day"} <= set(found)
        assert "Black Friday" not in found, "the day after Thanksgiving"


@pytest.mark.parametrize("first", [dt.date(2010, 2, 5), dt.date(2010, 2, 7), dt.date(2010, 2, 3)])
def test_they_lead_a_week_to_last_years_week_whatever_day_it_ends_on(first):
    weeks = np.datetime64(first) + 7 * np.arange(143)
    events = landed(yearly("Founders Day", "2010-06-02", "2011-06-15"), first=first)
    weights = one_year_back(weeks, 12, events)
    this, last = ((np.datetime64(day) - weeks[0]).astype(int) + 6 for day in ("2011-06-15", "2010-06-02"))
    sources = np.flatnonzero(weights[:, this // 7])
    assert last // 7 in sources
    np.testing.assert_allclose(weights[:, this // 7].sum(), 1)
