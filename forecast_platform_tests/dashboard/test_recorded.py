"""Recorded sentences in the reader's language: the very ones that the platform records, or what it said."""

from __future__ import annotations

import pytest

from forecast_platform.dashboard.recorded import recorded
from forecast_platform.lake.closures import Closing
from forecast_platform.publishing.series import forecastable
from forecast_platform.weeks import WEEK
from forecast_platform.words import Words
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.history.conftest import FRIDAY, make_panel

GERMAN = Words("de_DE")


@pytest.mark.parametrize("language", ["de_DE", "ko_KR"])
def test_why_a_model_serves(published: Graph, language: str) -> None:
    said = published.lake.read("models")["why"].to_pylist()
    assert said
    for why in said:
        for each in (why, f"pinned by FORECAST_MODEL_NAME; when trained: {why}"):
            told = recorded(Words(language), each)
            assert told != each
            assert "served" not in told
            assert recorded(Words("en"), each) == each


def test_why_a_series_has_no_forecast() -> None:
    panel = make_panel(
        {("1", "1"): [1.0] * 10, ("2", "1"): [1.0] * 10, ("3", "1"): [1.0] * 10, ("4", "1"): [1.0] + [None] * 9}
    )
    ahead = FRIDAY + 10 * WEEK
    closings = [
        Closing("1", None, ahead, None, "rebuilt by us: all", "ann"),
        Closing("2", "1", ahead, ahead + WEEK, "no freezer", "bob by proxy"),
    ]
    _, without = forecastable(panel, 4, 2, closings)
    reasons = without["reason"].to_pylist()
    assert [recorded(GERMAN, reason) for reason in reasons] == [
        "Filiale geschlossen ab 15.03.2024 (KW 11) durch ann: rebuilt by us: all",
        "Abteilung geschlossen von 15.03.2024 (KW 11) bis 22.03.2024 (KW 12) durch bob by proxy: no freezer",
        "geschlossen: seit 9 Wochen keine Verkäufe, die letzten in der Woche bis 05.01.2024 (KW 1); nach 4 Wochen gilt "
        "eine Reihe als geschlossen",
    ]
    assert [recorded(Words("en"), reason) for reason in reasons] == reasons


def test_figures_are_written_as_the_reader_writes_them_and_other_sentences_stay() -> None:
    said = (
        "served: 52% ratio, 48% trees (young series 60% trees, 40% ratio); weighed in 8 windows of the past; "
        "in the newest, the 12 weeks after 2024-11-08, its WAPE / wQL are 0.0754 / 0.0599 (give or take 0.0021, from "
        "store to store), and those of last year's week, the bar to pass, 0.0909 / 0.0724"
    )
    told = recorded(GERMAN, said)
    for figure in ("0,0754 / 0,0599", "± 0,0021", "0,0909 / 0,0724", "8 Fenstern", "52% ratio, 48% trees (young"):
        assert figure in told
    assert recorded(Words("en"), said) == said
    assert recorded(GERMAN, "closed: somebody said so") == "closed: somebody said so"
