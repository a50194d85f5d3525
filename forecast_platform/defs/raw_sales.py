"""What landed, checked against the contract: every accepted row in every version, every rejected line in quarantine."""

import datetime as dt

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.partitions import OWNERS, weekly, weeks_of
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.landing.ingest import ingest_landed
from forecast_platform.landing.ledger import WAITING, Ledger
from forecast_platform.landing.report import landed_markdown, landing_report, no_longer_lying
from forecast_platform.weeks import key


@dg.asset(
    deps=["landing"],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=500),
    group_name="landing",
    kinds={"iceberg", "parquet"},
    owners=OWNERS,
    description=__doc__,
    check_specs=[
        dg.AssetCheckSpec(
            "landing_contract",
            asset="raw_sales",
            description="every landed file could be read, none of its lines was rejected, nothing about it is odd",
        ),
        dg.AssetCheckSpec(
            "row_conservation", asset="raw_sales", description="rows received = rows accepted + rows quarantined"
        ),
    ],
)
def raw_sales(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, weeks, lake = Stage(context), weeks_of(context), platform.lake
    settings = platform.settings
    landing, now = platform.landing, dt.datetime.now(dt.UTC)
    done = ingest_landed(lake, landing, settings.contract, settings.calendar, now, context.log.info, settings.limits)
    with lake_connection(platform, duckdb, "raw_sales", "landings", "quarantine") as con:
        report = landing_report(con, weeks[0], weeks[-1], done)
        gone = no_longer_lying(con, Ledger.of(lake), landing)
    if gone:
        context.log.warning(f"{len(gone)} files in force no longer lie in {landing.url}: {', '.join(gone[:5])}")
    for week in weeks:
        context.add_asset_metadata({"rows": report.rows.get(week, 0)}, partition_key=key(week))
    quarantine = dg.MarkdownMetadataValue(report.to_markdown())
    return dg.MaterializeResult(
        metadata=stage.metadata(
            lake.specs["raw_sales"].schema,
            files=len(done),
            rows_accepted=sum(d.accepted for d in done),
            rows_quarantined=sum(d.quarantined for d in done),
            rows_appeared=sum(d.appeared for d in done),
            rows_changed=sum(d.changed for d in done),
            rows_vanished=sum(d.vanished for d in done),
            files_waiting=sum(d.status == WAITING for d in done),
            files_no_longer_lying=len(gone),
            landed=dg.MarkdownMetadataValue(landed_markdown(done)),
            quarantine=quarantine,
            dashboard=dg.MetadataValue.url(f"{settings.dashboard_url}/runs#quarantine"),
        ),
        check_results=[
            dg.AssetCheckResult(
                check_name="landing_contract",
                passed=report.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=report.summary,
                metadata={"quarantine": quarantine},
            ),
            dg.AssetCheckResult(
                check_name="row_conservation",
                passed=not report.not_conserved,
                metadata={"files_that_do_not_add_up": report.not_conserved},
            ),
        ],
    )
