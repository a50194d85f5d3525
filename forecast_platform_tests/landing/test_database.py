"""Sales from a real PostgreSQL: what is new or restated lands, what is as before does not, and nothing is guessed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from forecast_platform.databases import DatabaseError
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.database import Ask, Taken, asked, take
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.ingest import ingest_landed
from forecast_platform.landing.ledger import Entry, Ledger
from forecast_platform.landing.withdrawal import withdraw
from forecast_platform.weeks import WEEK, WeekCalendar
from forecast_platform_tests.landing.dated import DatedLanding
from forecast_platform_tests.postgres import Postgres

CALENDAR = WeekCalendar(ends="FRI")
LAST = dt.date(2025, 1, 31)
NOW = dt.datetime(2025, 2, 3, 9, tzinfo=dt.UTC)
QUERY = "SELECT store, dept, week AS date, amount AS weekly_sales FROM sales  -- all of them"
TABLE = """
    CREATE TABLE sales AS
    SELECT s AS store, 'd' || d AS dept, DATE '2025-01-31' - 7 * w AS week,
           (1000 * s + 100 * d + w + 0.25)::numeric(12, 2) AS amount
    FROM generate_series(1, 3) AS s, generate_series(1, 2) AS d, generate_series(0, 19) AS w
"""


class Shop:
    """A database with 20 weeks of 3 stores x 2 departments, and the lake that they go into."""

    def __init__(self, database: Postgres, folder: Path, **dialect: Any) -> None:
        self.database = database
        self.dialect = Dialect.named("canonical").replace(**dialect)
        self.lake, self.landing = Lake.local(folder / "lake", ("p50",)), DatedLanding(folder / "landing")
        self.run = database.run

    def take(self, query: str = QUERY, now: dt.datetime = NOW, **ask: Any) -> Taken:
        ask = {"url": self.database.url, "query": query, "name": "shop", **ask}
        return take(Ask(**ask), self.dialect, CALENDAR, self.lake, self.landing, now)

    def ingest(self, now: dt.datetime = NOW) -> list[Entry]:
        return ingest_landed(self.lake, self.landing, self.dialect, CALENDAR, now)

    def sales(self, week: dt.date) -> dict[tuple[str, str], float]:
        """What the database said last of a week."""
        rows = self.lake.query(
            "SELECT store, dept, sales FROM raw_sales WHERE week = ? QUALIFY landed_at = max(landed_at) OVER ()", [week]
        ).to_pylist()
        return {(row["store"], row["dept"]): row["sales"] for row in rows}


@pytest.fixture
def shop(database: Postgres, tmp_path: Path) -> Shop:
    database.run(TABLE)
    return Shop(database, tmp_path)


def test_the_history_comes_first_and_then_only_what_is_new_or_restated(shop: Shop) -> None:
    first = LAST - 19 * WEEK
    taken = shop.take()
    assert (taken.rows, taken.since, len(taken.weeks)) == (120, None, 20)
    assert taken.landed is not None
    assert taken.landed.key == f"sales/shop/{first}_{LAST}.parquet"
    (entry,) = shop.ingest()
    assert (entry.accepted, entry.appeared, entry.quarantined) == (120, 120, 0)
    assert shop.sales(LAST)["3", "d2"] == 3200.25

    # The same again: eight weeks are looked at, nothing lands.
    taken = shop.take()
    assert (taken.landed, taken.rows, taken.since) == (None, 48, LAST - 7 * WEEK)
    assert shop.ingest() == []

    # A week more, and one restated; another too long ago to be asked for.
    shop.run(
        f"INSERT INTO sales SELECT store, dept, DATE '{LAST + WEEK}', amount FROM sales WHERE week = '{LAST}'",
        f"UPDATE sales SET amount = 7 WHERE store = 1 AND week = '{LAST - 2 * WEEK}'",
        f"UPDATE sales SET amount = 7 WHERE week = '{LAST - 15 * WEEK}'",
    )
    later = NOW + WEEK
    taken = shop.take(now=later)
    assert taken.weeks == (LAST - 2 * WEEK, LAST + WEEK)
    (entry,) = shop.ingest(later)
    assert (entry.accepted, entry.changed, entry.appeared, entry.vanished) == (12, 2, 6, 0)
    assert shop.take(now=later).landed is None
    # Asked for wholly, the old one is found too.
    assert shop.take(now=later, everything=True).landed is not None
    (entry,) = shop.ingest(later)
    assert (entry.changed, entry.appeared, entry.vanished) == (6, 0, 0)


def test_a_row_that_is_gone_is_withdrawn_and_a_week_that_is_gone_is_named(shop: Shop) -> None:
    shop.take()
    shop.ingest()
    shop.run(f"DELETE FROM sales WHERE week = '{LAST - WEEK}' AND store = 3 AND dept = 'd2'")
    assert shop.take().weeks == (LAST - WEEK,)
    (entry,) = shop.ingest()
    assert (entry.vanished, entry.changed) == (1, 0)
    shop.run(f"DELETE FROM sales WHERE week = '{LAST - WEEK}'")
    taken = shop.take()
    assert (taken.landed, taken.lost) == (None, (LAST - WEEK,))
    assert f"no row any more of {LAST - WEEK}, which stay in force" in str(taken)


def test_a_bad_row_in_a_week_that_is_otherwise_as_it_was_is_named_once_and_nothing_is_lost(shop: Shop) -> None:
    shop.take()
    shop.ingest()
    shop.run(f"INSERT INTO sales VALUES (NULL, 'd1', '{LAST - WEEK}', 12)")
    assert shop.take().weeks == (LAST - WEEK,)
    (entry,) = shop.ingest()
    assert (entry.accepted, entry.quarantined, entry.appeared, entry.changed, entry.vanished) == (6, 1, 0, 0, 0)
    (refused,) = shop.lake.query("SELECT rule, record FROM quarantine").to_pylist()
    assert refused["rule"] == "missing_store"
    assert '"weekly_sales": 12' in refused["record"]
    # Asked again, it is known; a further one is not, and neither is one of a week without any other row.
    assert shop.take().landed is None
    shop.run(
        f"INSERT INTO sales VALUES (NULL, 'd2', '{LAST}', 13)",
        f"INSERT INTO sales VALUES (NULL, 'd2', '{LAST + WEEK}', 14)",
    )
    later = NOW + WEEK
    assert shop.take(now=later).weeks == (LAST, LAST + WEEK)
    (entry,) = shop.ingest(later)
    assert (entry.accepted, entry.quarantined) == (6, 2)
    assert shop.take(now=later).landed is None


def test_days_that_wait_for_their_week_are_no_news(database: Postgres, tmp_path: Path) -> None:
    """Asked from a Saturday on, the first week is whole; the days before a first sale leave one that waits."""
    database.run(
        """CREATE TABLE sales AS SELECT 1 AS store, 'a' AS dept, d::date AS date, 10.5::float8 AS weekly_sales
           FROM generate_series(TIMESTAMP '2025-01-07', '2025-02-02', '1 day') AS d"""
    )
    shop = Shop(database, tmp_path, aggregate="sum")
    shop.take("SELECT * FROM sales")
    (entry,) = shop.ingest()
    assert (entry.quarantined, entry.weeks) == (4, 3)
    assert shop.take("SELECT * FROM sales").landed is None


def test_what_people_decided_stays_until_the_database_says_something_else(shop: Shop) -> None:
    shop.take()
    (entry,) = shop.ingest()
    rows = [f"{s},d{d},{LAST},{s}{d}5" for s in (1, 2, 3) for d in (1, 2)]
    shop.landing.land("sales/corrected.csv", "\n".join(["store,dept,date,weekly_sales", *rows, ""]).encode())
    shop.ingest()
    assert shop.take().landed is None
    withdraw(shop.lake, Ledger.of(shop.lake).find(entry.key), "wrong till", "ann", NOW)
    assert shop.take().landed is None
    shop.run(f"UPDATE sales SET amount = 8 WHERE week = '{LAST}'")
    assert shop.take().weeks == (LAST,)


def test_the_week_under_way_is_left_until_it_is_over(shop: Shop) -> None:
    on_friday = dt.datetime(2025, 1, 31, 15, tzinfo=dt.UTC)
    assert shop.take(now=on_friday).weeks[-1] == LAST - WEEK
    in_tokyo = Shop(shop.database, Path(shop.landing.url).parent / "tokyo", time_zone="Asia/Tokyo")
    assert in_tokyo.take(now=on_friday).weeks[-1] == LAST  # where it is Saturday


def test_a_point_is_a_point_whatever_sign_people_write_files_with(database: Postgres, tmp_path: Path) -> None:
    database.run(TABLE, "UPDATE sales SET amount = 1.234 * 1000", "ALTER TABLE sales ALTER amount TYPE numeric(12, 3)")
    database.run("UPDATE sales SET amount = 1.234")
    shop = Shop(database, tmp_path, decimal=",")
    shop.take()
    (entry,) = shop.ingest()
    assert (entry.status, entry.accepted) == ("ingested", 120)
    assert set(shop.sales(LAST).values()) == {1.234}


def test_days_become_weeks_and_only_whole_ones_count(database: Postgres, tmp_path: Path) -> None:
    """Shops closed on Sundays and Mondays: of a single week nobody could tell that it is whole."""
    database.run(
        """CREATE TABLE sales AS SELECT s AS store, 'a' AS dept, d::timestamptz AS at, 10.5::float8 AS amount
           FROM generate_series(1, 2) AS s, generate_series(TIMESTAMP '2024-11-02 12:00', '2025-02-02', '1 day') AS d
           WHERE extract(dow FROM d) NOT IN (0, 1)"""
    )
    query = "SELECT store, dept, at AS date, amount AS weekly_sales FROM sales"
    with pytest.raises(DatabaseError, match="say where the shops are with FORECAST_TIME_ZONE"):
        Shop(database, tmp_path / "nowhere", aggregate="sum").take(query)
    shop = Shop(database, tmp_path, aggregate="sum", time_zone="Europe/Berlin")
    shop.take(query)
    (entry,) = shop.ingest()
    assert (entry.status, entry.quarantined, entry.last_week) == ("ingested", 0, LAST)
    assert set(shop.sales(LAST).values()) == {52.5}
    assert shop.take(query).landed is None
    database.run("UPDATE sales SET amount = 20.5 WHERE at BETWEEN '2025-01-28' AND '2025-01-29'")
    assert LAST in shop.take(query).weeks
    (entry,) = shop.ingest()
    assert (entry.changed, entry.quarantined) == (2, 0)
    assert set(shop.sales(LAST).values()) == {62.5}


def test_weeks_named_by_their_first_day(database: Postgres, tmp_path: Path) -> None:
    database.run(TABLE, "UPDATE sales SET week = week - 6")
    shop = Shop(database, tmp_path, week_label="start")
    assert shop.take().weeks[-1] == LAST
    shop.ingest()
    assert shop.take().landed is None
    assert len(shop.sales(LAST)) == 6


def test_other_kinds_are_taken_whole_and_once(shop: Shop) -> None:
    shop.run("CREATE TABLE branches AS SELECT 1 AS store, 'Ulm' AS name, 'North' AS region")
    ask = {"query": "SELECT * FROM branches", "kind": "stores"}
    taken = shop.take(**ask)
    assert taken.landed is not None
    assert taken.landed.key == "stores/shop.parquet"
    shop.ingest()
    assert {(r["name"], r["value"]) for r in shop.lake.read("stores").to_pylist()} == {
        ("name", "Ulm"),
        ("region", "North"),
    }
    assert shop.take(**ask).landed is None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT store, week, amount FROM sales", r"lacks the column date, weekly_sales.*SELECT \.\.\. AS date"),
        ("SELECT store, dept, week::text AS date, amount AS weekly_sales FROM sales", "CAST.date AS date. AS date"),
        ("SELECT store, dept, week AS date, amount AS weekly_sales FROM till", 'relation "till" does not exist'),
        ("SELECT store, store, week AS date, amount AS weekly_sales FROM sales", "two columns of the query have one"),
        ("DELETE FROM sales", "syntax error"),
        ("SELECT 1; DROP TABLE sales", "syntax error"),
        ("SELECT drop_all() AS store, DATE '2025-01-24' AS date, 1 AS weekly_sales", "read-only transaction"),
        ("SELECT 1 AS store, DATE '2025-01-24' AS date, 1 AS weekly_sales FROM pg_sleep(5)", "longer than 0.3 s"),
    ],
)
def test_what_cannot_be_asked_is_said_and_nothing_lands(shop: Shop, query: str, said: str) -> None:
    shop.run("CREATE FUNCTION drop_all() RETURNS int LANGUAGE sql VOLATILE AS 'DELETE FROM sales; SELECT 1'")
    with pytest.raises(DatabaseError, match=said) as error:
        shop.take(query, seconds=0.3)
    assert shop.database.password not in str(error.value)
    assert shop.landing.list() == []
    assert shop.run("SELECT count(*) FROM sales") == [(120,)]


def test_a_wrong_password_is_not_in_the_text(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = shop.database.url.replace("shop@", "shop:hunter%402@")
    with pytest.raises(DatabaseError, match=r"password authentication failed.*PGPASSWORD") as error:
        shop.take(url=wrong)
    assert "hunter" not in str(error.value)
    monkeypatch.setenv("PGPASSWORD", "hunter3")
    with pytest.raises(DatabaseError, match="password authentication failed") as error:
        shop.take()
    assert "hunter" not in str(error.value)
    with pytest.raises(DatabaseError, match="Connection refused"):
        shop.take(url="postgresql://shop@127.0.0.1:1/shop")
    with pytest.raises(DatabaseError, match="needs the package adbc-driver-mysql"):
        shop.take(url="mysql://shop@127.0.0.1/shop")


def test_an_answer_that_breaks_off_lands_nothing(shop: Shop) -> None:
    query = "SELECT store, dept, week AS date, amount / (store - 3) AS weekly_sales FROM sales"
    with pytest.raises(DatabaseError, match="division by zero"):
        shop.take(query)
    assert shop.landing.list() == []


def test_equal_answers_are_equal_bytes_whatever_order_the_database_keeps(shop: Shop) -> None:
    first = shop.take()
    shop.run("CREATE TABLE other AS SELECT * FROM sales ORDER BY random()")
    again = shop.take(QUERY.replace("sales  --", "other  --"))
    assert first.landed is not None
    assert again.landed is not None
    assert again.landed.version == first.landed.version
    assert pq.read_table(Path(shop.landing.url, first.landed.key)).num_rows == 120


def test_the_name_of_files_and_the_query_may_be_the_homes(tmp_path: Path) -> None:
    (tmp_path / "sales.sql").write_text(QUERY)
    ask = asked("postgresql://me@host/my%20shop", "sales.sql", "", "sales", 8, 60, False, tmp_path)
    assert (ask.query, ask.name) == (QUERY, "my-shop")
    with pytest.raises(DatabaseError, match=r"there is no file other\.sql with the query"):
        asked("postgresql://me@host/shop", "other.sql", "", "sales", 8, 60, False, tmp_path)
    with pytest.raises(DatabaseError, match="no name for files"):
        asked("postgresql://me@host/shop", QUERY, "../shop", "sales", 8, 60, False, tmp_path)
