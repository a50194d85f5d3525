"""All series at a cutoff, as the lake has them: in one panel, or a shard at a time.

Rows are read once. Those of a small retailer stay in memory. Those of a large one go to a folder first, shard by shard.
A shard is a range of the series in the order of their names, so that a store's series stay close. It becomes a panel
only while it is worked on. For training, a sample of a large retailer is enough.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecast_platform.history.absence import AUTO, NoRow, interpret
from forecast_platform.history.cleaning import LANDED
from forecast_platform.history.covariates import Declarations, attach
from forecast_platform.history.holidays import Event, events_for
from forecast_platform.history.panel import ACTIVE_WEEKS, LARGEST, Panel
from forecast_platform.history.panel_file import load_panel, save_panel
from forecast_platform.history.shards import WHOLE, Retailer
from forecast_platform.history.versions import BEGINNING, CALENDAR, EVER, FEATURES, VERSIONS, joins_as_written
from forecast_platform.weeks import WEEK

FEWEST_STORES = 8  # in a sample: it takes several to learn what stores have in common and what not


def known_by(week: dt.date) -> dt.datetime:
    """The moment up to which `as_known_then` looks: the end of the week after `week` (exclusive), UTC.

    A week's own sales land in the days after it ends, before the next week does.
    """
    return dt.datetime.combine(week + dt.timedelta(days=7), dt.time(), dt.UTC)


def observations(con: duckdb.DuckDBPyConnection, cutoff: dt.date, as_known: str = "now") -> duckdb.DuckDBPyRelation:
    """Observed rows (store, dept, week, sales) up to `cutoff`, as they landed, without filled zeros.

    Args:
        as_known: "now" reads `cleaned_series`; "then" the versions that had landed by `known_by(cutoff)`.
    """
    sql, parameters = _observed(cutoff, as_known)
    return con.sql(sql, params=parameters)


def _observed(cutoff: dt.date, as_known: str) -> tuple[str, dict[str, Any]]:
    """A SELECT of `observations`, with its parameters."""
    if as_known == "then":
        sql = f"""WITH {VERSIONS}
            SELECT store, dept, week, row.sales AS sales FROM in_force WHERE row.sales IS NOT NULL"""  # noqa: S608 (only our own SQL is composed)
        return sql, {"since": BEGINNING, "last": cutoff, "known_before": known_by(cutoff)}
    sql = f"SELECT store, dept, week, sales FROM cleaned_series WHERE {LANDED} AND week <= $last"  # noqa: S608 (only our own SQL is composed)
    return sql, {"last": cutoff}


@dataclass(frozen=True)
class Meaning:
    """How landed rows are read.

    Attributes:
        declarations: the feature columns in use; None: sales alone, without features and holidays.
        country: whose holidays count where no calendar has landed.
        no_row, active_weeks: see absence.interpret.
    """

    declarations: Declarations | None = None
    country: str = "US"
    no_row: NoRow = AUTO
    active_weeks: int = ACTIVE_WEEKS


DEFAULT = Meaning()


@dataclass(frozen=True)
class KnownRows:
    """The rows of all series up to a cutoff, or of a shard of them.

    Attributes:
        sales: (store, dept, week, sales). features: (store, dept, week, name, value). Tables, or folders of Parquet.
        calendar: (name, date).
        span: first and last week of all series. landed: names of all features.
    """

    cutoff: dt.date
    meaning: Meaning
    sales: pa.Table | Path
    features: pa.Table | Path
    calendar: pa.Table
    span: tuple[dt.date, dt.date]
    landed: tuple[str, ...]

    def panel(self, retailer: Retailer = WHOLE) -> Panel:
        """The panel, in which weeks without a row are interpreted. That is done from what was known at the cutoff; the
        filled zeros of `cleaned_series` are for people to see, and are not read.

        Raises:
            ValueError: see `panel_of`.
        """

        def read() -> Panel:
            sales, features = _table(self.sales), _table(self.features)
            return panel_of(sales, features, self.calendar, self.meaning, self.span, self.landed)

        def interpreted() -> Panel:
            panel = retailer.keep_as(read, save_panel, load_panel)
            return interpret(panel, self.meaning.no_row, self.meaning.active_weeks, retailer).until(self.cutoff)

        # Of a shard both are kept: in a later round of sums neither is done again.
        return retailer.keep_as(interpreted, save_panel, load_panel)


def _table(rows: pa.Table | Path) -> pa.Table:
    return pq.read_table(rows, partitioning=None) if isinstance(rows, Path) else rows


@dataclass(frozen=True)
class Sample:
    """A smaller retailer out of a large one: some of its stores and departments.

    Attributes:
        stores, depts: their names. series: how many series the large retailer has.
    """

    stores: tuple[str, ...]
    depts: tuple[str, ...]
    series: int


def sample(con: duckdb.DuckDBPyConnection, cutoff: dt.date, as_known: str, at_most: int) -> Sample | None:
    """Stores and departments with about `at_most` series; None where there are not more series than that.

    The stores are spread evenly from the smallest to the largest. All of their departments are in the sample, since
    they are compared with each other; only where FEWEST_STORES stores alone would be too many series, the departments
    are a selection too. A store and its departments keep the sales they had, so what is learnt on the sample holds for
    the other series.
    """
    observed, parameters = _observed(cutoff, as_known)
    # All rows are read once; of a million series that is most of what it takes.
    sizes = f"""
        WITH each AS MATERIALIZED (
            SELECT store, dept, coalesce(sum(greatest(sales, 0)) FILTER (week >= $year), 0) AS size
            FROM ({observed}) GROUP BY store, dept
        )
        SELECT 'store' AS kind, store AS name, sum(size) AS size, count(*) AS series FROM each GROUP BY store
        UNION ALL
        SELECT 'dept', dept, sum(size), count(*) FROM each GROUP BY dept
        ORDER BY size, name
    """  # noqa: S608 (only our own SQL is composed)
    with joins_as_written(con):
        rows = con.execute(sizes, parameters | {"year": cutoff - 51 * WEEK}).fetchall()
    stores, depts = ([name for of, name, *_ in rows if of == kind] for kind in ("store", "dept"))
    series = sum(count for of, *_, count in rows if of == "store")
    if series <= at_most:
        return None
    wanted = min(max(round(len(stores) * at_most / series), FEWEST_STORES), len(stores))
    part = at_most / (series * wanted / len(stores)) if wanted <= FEWEST_STORES else 1.0
    some_depts = _evenly(depts, min(max(round(len(depts) * part), 1), len(depts)))
    return Sample(_evenly(stores, wanted), some_depts, series)


def _evenly(names: list[str], count: int) -> tuple[str, ...]:
    return tuple(names[(2 * k + 1) * len(names) // (2 * count)] for k in range(count))


def read_panel(
    con: duckdb.DuckDBPyConnection,
    cutoff: dt.date,
    as_known: str = "now",
    meaning: Meaning = DEFAULT,
    among: Sample | None = None,
) -> Panel:
    """All series up to `cutoff`, from `observations`, with the features and holidays known at the same moment.

    Args:
        among: only the series of these stores and departments.

    Raises:
        ValueError: nothing had been observed by then, or see `build_panel`.
    """
    return _whole(con, cutoff, as_known, meaning, among).panel()


def _whole(
    con: duckdb.DuckDBPyConnection, cutoff: dt.date, as_known: str, meaning: Meaning, among: Sample | None = None
) -> KnownRows:
    sql, parameters = _observed(cutoff, as_known)
    moment, features, calendar = _moment(cutoff, as_known), _NO_FEATURES, _NO_DAYS
    of_features, asked = FEATURES, moment
    if among is not None:
        chosen = {"stores": list(among.stores), "depts": list(among.depts)}
        sql = f"SELECT * FROM ({sql}) WHERE store IN $stores AND dept IN $depts"  # noqa: S608 (only our own SQL is composed)
        of_features = f"SELECT * FROM ({FEATURES}) WHERE store IN $stores AND coalesce(dept IN $depts, true)"  # noqa: S608
        parameters, asked = parameters | chosen, moment | chosen
    with joins_as_written(con):
        sales = con.sql(sql, params=parameters).to_arrow_table()
    if meaning.declarations is not None:
        features, calendar = (
            con.sql(sql, params=given).to_arrow_table() for sql, given in ((of_features, asked), (CALENDAR, moment))
        )
    weeks = pc.min_max(sales["week"]).as_py()
    names = tuple(sorted(features["name"].unique().to_pylist()))
    return KnownRows(cutoff, meaning, sales, features, calendar, (weeks["min"], weeks["max"]), names)


_NO_FEATURES = pa.table({name: pa.array([], pa.string()) for name in ("store", "dept", "week", "name", "value")})
_NO_DAYS = pa.table({name: pa.array([], pa.string()) for name in ("name", "date")})


def _moment(cutoff: dt.date, as_known: str) -> dict[str, Any]:
    return {"known_before": known_by(cutoff) if as_known == "then" else EVER}


# The shard that each series goes to: $shards ranges of about equal length, in the order of names.
_SHARD_OF = """
    CREATE OR REPLACE TEMP TABLE shard_of AS
    SELECT store, dept, (row_number() OVER (ORDER BY store, dept) - 1) * $shards // count(*) OVER () AS shard
    FROM series_there
"""
# A value for a whole store goes to every shard that has series of the store.
_FEATURES_OF_SHARDS = f"""
    WITH given AS ({FEATURES}), shard_of_store AS (SELECT DISTINCT store, shard FROM shard_of)
    SELECT g.*, shard FROM given AS g JOIN shard_of_store USING (store) WHERE g.dept IS NULL
    UNION ALL
    SELECT g.*, shard FROM given AS g JOIN shard_of USING (store, dept)
"""  # noqa: S608 (only our own SQL is composed)
_NAMES_OF_FEATURES = f"SELECT DISTINCT name FROM ({FEATURES}) ORDER BY name"  # noqa: S608 (only our own SQL is composed)


def sources(
    con: duckdb.DuckDBPyConnection,
    cutoff: dt.date,
    as_known: str,
    meaning: Meaning,
    folder: Path,
    at_most: int,
    at_least: int = 1,
) -> list[KnownRows]:
    """All series up to `cutoff` in shards.

    Args:
        folder: where the rows of several shards go; it is replaced.
        at_most: largest number of series in a shard. at_least: smallest number of shards, with enough series for them.

    Raises:
        ValueError: nothing had been observed by then.
    """
    observed, parameters = _observed(cutoff, as_known)
    there = f"SELECT store, dept, min(week) AS first, max(week) AS last FROM ({observed}) GROUP BY store, dept"  # noqa: S608 (only our own SQL is composed)
    with joins_as_written(con):
        con.execute(f"CREATE OR REPLACE TEMP TABLE series_there AS {there}", parameters)
    ((count, first, last),) = con.execute("SELECT count(*), min(first), max(last) FROM series_there").fetchall()
    shards = max(-(-count // at_most), min(at_least, count))
    if shards <= 1:
        return [_whole(con, cutoff, as_known, meaning)]
    con.execute(_SHARD_OF, {"shards": shards})
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sales, features = folder / "sales", folder / "features"
    of_shards = f"SELECT * FROM ({observed}) JOIN shard_of USING (store, dept)"  # noqa: S608 (only our own SQL is composed)
    with joins_as_written(con):
        _write(con, of_shards, parameters, sales)
    moment, calendar, landed = _moment(cutoff, as_known), _NO_DAYS, []
    if meaning.declarations is not None:
        _write(con, _FEATURES_OF_SHARDS, moment, features)
        landed = con.execute(_NAMES_OF_FEATURES, moment).fetchall()
        calendar = con.sql(CALENDAR, params=moment).to_arrow_table()
    names = [f"shard={shard}" for shard in range(shards)]
    given = [features / name if (features / name).exists() else _NO_FEATURES for name in names]
    return [
        KnownRows(cutoff, meaning, sales / name, own, calendar, (first, last), tuple(name for (name,) in landed))
        for name, own in zip(names, given, strict=True)
    ]


def _write(con: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any], folder: Path) -> None:
    """Write the rows of a query with a column `shard` as Parquet by shard, unsorted, so that they need not be held."""
    place = "'" + str(folder).replace("'", "''") + "'"
    con.execute(f"COPY ({sql}) TO {place} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (shard))", parameters)


def build_panel(sales: pa.Table, features: pa.Table, calendar: pa.Table, meaning: Meaning) -> Panel:
    """`panel_of` with its gaps and closures interpreted.

    Raises:
        ValueError: see `panel_of`.
    """
    return interpret(panel_of(sales, features, calendar, meaning), meaning.no_row, meaning.active_weeks)


def panel_of(
    sales: pa.Table,
    features: pa.Table,
    calendar: pa.Table,
    meaning: Meaning,
    span: tuple[dt.date, dt.date] | None = None,
    landed: Collection[str] | None = None,
) -> Panel:
    """Sales as reported on the weekly grid, with the covariates in use and the holidays to line up.

    Args:
        sales: (store, dept, week, sales). features: (store, dept, week, name, value). calendar: (name, date).
        span, landed: for a shard, what it can't know by itself: the first and last week of all series, and the names
            of all feature columns.

    Raises:
        ValueError: sales beyond LARGEST, naming series and week; or see Panel.from_table, covariates.attach and
            holidays.events_for.
    """
    panel = Panel.from_table(sales, span)
    if (too_large := np.argwhere(np.abs(panel.sales) > LARGEST)).size:
        i, week = too_large[0].tolist()
        raise ValueError(
            f"store {panel.store[i]}, department {panel.dept[i]}, week of {panel.weeks[week]}: sales of "
            f"{panel.sales[i, week]:.6g} are beyond {LARGEST:.0e}, more than any week holds; correct them, or "
            "give all sales in a larger unit"
        )
    if meaning.declarations is not None:
        panel = attach(panel, features, meaning.declarations, landed)
        first, last = panel.weeks[[0, -1]].astype(dt.date)
        panel = replace(panel, events=events_for(first, last, _named_days(calendar), meaning.country))
    return panel


def events_given(
    con: duckdb.DuckDBPyConnection, cutoff: dt.date, known_before: dt.datetime, country: str
) -> tuple[Event, ...]:
    """The events of a panel that `read_panel` read up to `cutoff`, from what had landed before a moment."""
    weeks = con.execute("SELECT min(week), max(week) FROM cleaned_series WHERE observed AND week <= ?", [cutoff])
    ((first, last),) = weeks.fetchall()
    return events_for(first or cutoff, last or cutoff, named_days(con, known_before), country)


def named_days(con: duckdb.DuckDBPyConnection, known_before: dt.datetime = EVER) -> list[tuple[str, dt.date]]:
    """(name, date) of the landed calendar in force: what the holidays of a panel are made of."""
    return _named_days(con.sql(CALENDAR, params={"known_before": known_before}).to_arrow_table())


def _named_days(calendar: pa.Table) -> list[tuple[str, dt.date]]:
    return list(zip(calendar["name"].to_pylist(), calendar["date"].to_pylist(), strict=True))


def features_in_force(con: duckdb.DuckDBPyConnection, store: str, dept: str = "") -> pa.Table:
    """Features (week, name, value) of a store's department, planned weeks too; without `dept` those of the store as a
    whole. A department's own value wins over its store's, as in a panel."""
    return con.sql(
        f"""SELECT week, name, arg_max(value, dept IS NOT NULL) AS value FROM ({FEATURES})
            WHERE store = $store AND (dept IS NULL OR dept = $dept) GROUP BY week, name ORDER BY name, week""",  # noqa: S608 (only our own SQL is composed)
        params={"known_before": EVER, "store": store, "dept": dept},
    ).to_arrow_table()
