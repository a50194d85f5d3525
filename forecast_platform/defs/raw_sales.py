"""What landed, checked against the contract: every accepted row in every version, every rejected line in quarantine."""

import datetime as dt
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.partitions import OWNERS, weekly, weeks_of
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.landing.ingest import Ingested, ingest_landed
from forecast_platform.weeks import key


@dg.asset(
    partitions_def=weekly, backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=500),
    group_name="landing", kinds={"iceberg", "parquet"}, owners=OWNERS, code_version="1", description=__doc__,
    check_specs=[
        dg.AssetCheckSpec(
            "landing_contract", asset="raw_sales",
            description="every landed file could be read, and none of its lines was rejected",
        ),
        dg.AssetCheckSpec(
            "row_conservation", asset="raw_sales", description="rows received = rows accepted + rows quarantined"
        ),
    ],
)
def raw_sales(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, weeks = Stage(context), weeks_of(context)
    settings, lake = platform.settings, platform.lake
    done = ingest_landed(
        lake, platform.landing, settings.contract, settings.calendar, dt.datetime.now(dt.UTC), context.log.info
    )
    with lake_connection(platform, duckdb) as con:
        counts = dict(
            con.execute(
                "SELECT week, count(*) FROM raw_sales WHERE week BETWEEN ? AND ? GROUP BY week", [weeks[0], weeks[-1]]
            ).fetchall()
        )
        conserved = con.execute(
            """
            SELECT l.source_key, l.landed_at, l.rows, l.accepted, l.quarantined, count(r.line) AS stored
            FROM landings AS l LEFT JOIN raw_sales AS r USING (source_key, landed_at)
            WHERE l.kind = 'sales' AND l.status = 'ingested'
            GROUP BY ALL HAVING l.rows <> l.accepted + l.quarantined OR l.accepted <> stored
            """
        ).fetchall()
        # What is wrong with a file's newest version: one that was mended and landed again is in order.
        con.execute(
            """
            CREATE OR REPLACE TEMP VIEW newest AS
            SELECT * FROM landings QUALIFY row_number() OVER (PARTITION BY source_key ORDER BY landed_at DESC) = 1
            """
        )
        troubled = con.execute(
            """
            SELECT q.source_key, q.rule, count(*) AS lines, min(q.line) AS first_line,
                   arg_min(q.value, q.line) AS value, arg_min(q.message, q.line) AS message
            FROM quarantine AS q
            JOIN newest AS l USING (source_key, source_version, landed_at)
            WHERE q.source_key IN (SELECT unnest($new))
               OR (l.first_week <= $last AND l.last_week >= $first)
            GROUP BY ALL ORDER BY lines DESC
            """,
            {"new": [d.key for d in done], "first": weeks[0], "last": weeks[-1]},
        ).fetchall()
        drift = con.execute(
            """
            SELECT source_key, ignored_columns FROM newest
            WHERE ignored_columns IS NOT NULL AND kind = 'sales'
              AND (source_key IN (SELECT unnest($new)) OR (first_week <= $last AND last_week >= $first))
            """,
            {"new": [d.key for d in done], "first": weeks[0], "last": weeks[-1]},
        ).fetchall()
    for week in weeks:
        context.add_asset_metadata({"rows": counts.get(week, 0)}, partition_key=key(week))
    return dg.MaterializeResult(
        metadata=stage.metadata(
            lake.specs["raw_sales"].schema, files=len(done), rows_accepted=sum(d.accepted for d in done),
            rows_quarantined=sum(d.quarantined for d in done), landed=dg.MarkdownMetadataValue(_landed_table(done)),
            quarantine=dg.MarkdownMetadataValue(_quarantine_table(troubled)),
        ),
        check_results=[
            dg.AssetCheckResult(
                check_name="landing_contract", passed=not troubled and not drift, severity=dg.AssetCheckSeverity.WARN,
                description=_summary(troubled, drift),
                metadata={"quarantine": dg.MarkdownMetadataValue(_quarantine_table(troubled))},
            ),
            dg.AssetCheckResult(
                check_name="row_conservation", passed=not conserved,
                metadata={"files_that_do_not_add_up": [row[0] for row in conserved]},
            ),
        ],
    )


def _summary(troubled: list[tuple[Any, ...]], drift: list[tuple[Any, ...]]) -> str:
    parts = [f"{r[0]}: {r[2]:,} x {r[1]}" + (f" (first in line {r[3]})" if r[3] else "") for r in troubled[:5]]
    parts += [f"{source}: unknown columns ignored: {columns}" for source, columns in drift[:5]]
    return "; ".join(parts) or "every line accepted"


def _landed_table(done: list[Ingested]) -> str:
    if not done:
        return "nothing new had landed"
    lines = ["| file | status | rows | accepted | quarantined | weeks |", "|---|---|---:|---:|---:|---|"]
    for d in done[:50]:
        weeks = f"{d.weeks[0]} .. {d.weeks[-1]}" if d.weeks else ""
        lines.append(f"| {d.key} | {d.rule or d.status} | {d.rows:,} | {d.accepted:,} | {d.quarantined:,} | {weeks} |")
    return "\n".join(lines)


def _quarantine_table(troubled: list[tuple[Any, ...]]) -> str:
    if not troubled:
        return "nothing quarantined"
    lines = ["| file | rule | lines | first line | value there | what to do |", "|---|---|---:|---:|---|---|"]
    for source, rule, count, line, value, message in troubled[:20]:
        lines.append(f"| {source} | {rule} | {count:,} | {line or 'file'} | {_cell(value)} | {_cell(message)} |")
    return "\n".join(lines)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")[:200]
