"""Realised accuracy does not depend on the order in which forecasts and sales came, changed or went."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.lake.lake import Lake
from forecast_platform.lake.tables import LakeError
from forecast_platform.publishing.accuracy import rescore, score_weeks
from forecast_platform.weeks import WEEK
from forecast_platform_tests.lake.conftest import QUANTILES, clean_rows, forecast_rows, week

LEVELS = (0.1, 0.5, 0.9)
FIRST = dt.date(2024, 1, 5)
WEEKS = [FIRST + n * WEEK for n in range(3)]


class Book:
    """The three tables, written as the assets do."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake.local(folder / "lake", QUANTILES)

    def sell(self, week: dt.date, sales: float | None) -> None:
        rows = clean_rows({(week, "1", "2"): sales})
        self.lake.replace_weeks("cleaned_series", [week], rows)
        self.score(sold=[week])

    def publish(self, week: dt.date, p50: float, targets: int = 2) -> None:
        self.lake.replace_weeks("forecasts", [week], forecast_rows(week, p50, targets=targets))
        self.score(published=[week])

    def score(self, **changed: list[dt.date]) -> None:
        with duckdb.connect() as con:
            rescore(self.lake, con, **changed)

    @property
    def scores(self) -> list[dict]:
        return self.lake.read("forecast_accuracy").to_pylist()

    @property
    def expected(self) -> list[dict]:
        """All weeks scored at once, from the tables as they are."""
        spec = self.lake.specs["forecast_accuracy"]
        with duckdb.connect() as con:
            self.lake.attach(con)
            weeks = [w for (w,) in con.execute("SELECT DISTINCT target_week FROM forecasts").fetchall()]
            blocks = [rows.select(spec.schema.names).cast(spec.schema) for rows in score_weeks(con, weeks)]
        return pa.concat_tables([spec.schema.empty_table(), *blocks]).to_pylist()


def test_all_orders_of_three_weeks_give_equal_scores(tmp_path, tables_home):
    found = []
    for number, order in enumerate(itertools.permutations(range(3))):
        book = Book(tables_home(tmp_path / str(number)))
        for n in order:
            book.sell(WEEKS[n], 100.0 + n)
            book.publish(WEEKS[n], 90.0 + n)
        found.append(book.scores)
    assert all(scores == found[0] for scores in found)
    assert [(r["week"], r["forecast_week"], r["actual"], r["error"]) for r in found[0]] == [
        (WEEKS[1], WEEKS[0], 101.0, -11.0),
        (WEEKS[2], WEEKS[0], 102.0, -12.0),
        (WEEKS[2], WEEKS[1], 102.0, -11.0),
    ]


STEPS = st.one_of(
    st.tuples(
        st.just("sell"),
        st.sampled_from([*WEEKS, FIRST - 364 * dt.timedelta(days=1) + WEEK]),
        st.sampled_from([50.0, 70.0, None]),
    ),
    st.tuples(st.just("publish"), st.sampled_from(WEEKS), st.sampled_from([60.0, 80.0]), st.sampled_from([1, 2])),
)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=3, max_size=7))
def test_whatever_came_changed_or_went_the_scores_are_those_of_the_tables_as_they_are(
    tmp_path_factory, tables_home, steps
):
    book = Book(tables_home(tmp_path_factory.mktemp("book")))
    for what, *arguments in steps:
        getattr(book, what)(*arguments)
    assert book.scores == book.expected


def test_a_forecast_published_again_replaces_its_scores(tmp_path):
    book = Book(tmp_path)
    for n in (1, 2):
        book.sell(WEEKS[n], 100.0)
    book.publish(WEEKS[0], 90.0)
    assert [r["error"] for r in book.scores] == [-10.0, -10.0]
    book.publish(WEEKS[0], 105.0, targets=1)  # and reaches less far
    assert [(r["week"], r["error"]) for r in book.scores] == [(WEEKS[1], 5.0)]


def test_sales_restated_or_withdrawn_score_their_week_again_and_the_year_after_by_its_naive(tmp_path):
    book, year_before = Book(tmp_path), WEEKS[1] - 364 * dt.timedelta(days=1)
    book.publish(WEEKS[0], 90.0, targets=1)
    book.sell(WEEKS[1], 100.0)
    book.sell(year_before, 80.0)
    assert [(r["actual"], r["naive"]) for r in book.scores] == [(100.0, 80.0)]
    book.sell(WEEKS[1], 110.0)
    book.sell(year_before, None)
    assert [(r["actual"], r["naive"]) for r in book.scores] == [(110.0, None)]
    book.sell(WEEKS[1], None)
    assert book.scores == []


def test_runs_that_score_the_same_week_at_once_lose_no_score(tmp_path, monkeypatch):
    """Between what one run reads and what it writes, another publishes and scores: the first writes an old state."""
    book, other = Book(tmp_path), Book(tmp_path)
    book.sell(WEEKS[2], 100.0)
    replace, met = book.lake.replace_weeks, []

    def meet(name: str, weeks: list[dt.date], rows: pa.Table) -> bool:
        if name == "forecast_accuracy" and not met:
            met.append(1)
            other.publish(WEEKS[1], 80.0)
        return replace(name, weeks, rows)

    monkeypatch.setattr(book.lake, "replace_weeks", meet)
    book.publish(WEEKS[0], 90.0)
    assert met
    assert [(r["forecast_week"], r["p50"]) for r in book.scores] == [(WEEKS[0], 90.0), (WEEKS[1], 80.0)]


def test_scoring_that_never_meets_a_quiet_moment_says_so(tmp_path, monkeypatch):
    book, states = Book(tmp_path), itertools.count()
    book.sell(WEEKS[1], 100.0)
    monkeypatch.setattr(book.lake, "snapshot", lambda name: next(states))
    with pytest.raises(LakeError, match="run forecast_accuracy again"):
        book.score(sold=[WEEKS[1]])


def test_each_forecast_is_scored_by_the_quantiles_it_was_published_with(tmp_path):
    """p10 to p90 first, then p5 to p95 with p50 between: neither is judged by the other's columns."""
    book, (first, second, third) = Book(tmp_path), [week(n) for n in range(3)]
    book.publish(first, 100.0)
    wider = ("p5", "p50", "p95")
    book.lake = Lake.local(tmp_path / "lake", wider)
    rows = forecast_rows(second, 100.0, targets=1, quantiles=wider)
    book.lake.replace_weeks("forecasts", [second], rows)
    book.sell(second, 130.0)
    book.sell(third, 130.0)
    found = {(r["week"], r["forecast_week"]): r for r in book.scores}
    assert {k: round(r["interval"], 9) for k, r in found.items()} == {
        (second, first): 0.8, (third, first): 0.8, (third, second): 0.9,
    }  # fmt: skip
    names = ("p5", "p10", "p50", "p90", "p95")
    rows = Lake.local(tmp_path / "lake", names).read("forecasts").to_pylist()
    published = {(r["forecast_week"], r["target_week"]): r for r in rows}
    for (target, made), row in found.items():
        said = published[made, target]
        pairs = [(int(n[1:]) / 100, v) for n, v in said.items() if n in names and v is not None]
        assert len(pairs) == 3
        losses = [2 * max(q * (130 - v), (q - 1) * (130 - v)) for q, v in pairs]
        assert row["quantile_loss"] == pytest.approx(sum(losses) / 3)
        assert row["in_interval"] == (pairs[0][1] <= 130 <= pairs[-1][1])
    assert book.scores == book.expected
