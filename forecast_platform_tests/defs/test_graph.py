"""The asset graph: what is defined, what loading it costs, and what weekly runs and backfills leave in the lake."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

import forecast_platform
from forecast_platform import definitions
from forecast_platform.definitions import defs
from forecast_platform.demo import MadeUpRetailer, history_files, week_file
from forecast_platform.models.networks import COUNTS, SHIPPED, SKIP
from forecast_platform.models.target import RATIO, SALES
from forecast_platform.weeks import key
from forecast_platform_tests.conftest import HistoryHome, contents, landing_day, snapshots, weeks_of
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.processes import python

ASSETS = ["raw_sales", "cleaned_series", "deepar_model", "batch_predictions", "forecast_table", "forecast_accuracy"]
WEEKLY = [*ASSETS, "exports", "weekly_report"]

# asset: group, kinds, upstream, weeks a backfill run takes
TABLE = {
    "landing": ("landing", {"file"}, "", None),
    "raw_sales": ("landing", {"iceberg", "parquet"}, "landing", 500),
    "cleaned_series": ("series", {"iceberg", "duckdb"}, "raw_sales", 500),
    "deepar_model": ("model", {"pytorch", "deepar"}, "cleaned_series raw_sales", 1),
    "batch_predictions": ("forecast", {"pytorch", "deepar"}, "cleaned_series deepar_model raw_sales", 1),
    "forecast_table": ("forecast", {"iceberg", "table"}, "batch_predictions cleaned_series deepar_model raw_sales", 1),
    "forecast_accuracy": ("accuracy", {"iceberg", "duckdb"}, "cleaned_series forecast_table", 500),
    "exports": ("hand_over", {"csv", "parquet"}, "forecast_table raw_sales", 1),
    "weekly_report": (
        "hand_over",
        {"html"},
        "cleaned_series deepar_model forecast_accuracy forecast_table raw_sales",
        1,
    ),
    "tableau_extract": ("hand_over", {"tableau"}, "cleaned_series forecast_accuracy forecast_table", None),
}
# check: asset, whether a failure stops what comes after
CHECKS = {
    "landing_contract": ("raw_sales", False),
    "row_conservation": ("raw_sales", False),
    "week_complete": ("cleaned_series", True),
    "no_store_closed": ("cleaned_series", False),
    "beats_seasonal_naive": ("deepar_model", False),
    "no_future_data": ("batch_predictions", True),
    "outputs_verified": ("batch_predictions", True),
    "forecast_or_reason": ("forecast_table", True),
    "quantiles_ordered": ("forecast_table", True),
    "interval_coverage": ("forecast_accuracy", False),
}
NIGHTLY = {"freshness_check": ("forecast_table", False)}  # asked by a job of its own


# --- definitions


def test_the_definitions_load():
    dg.Definitions.validate_loadable(defs)


def test_a_file_in_the_folder_is_all_that_a_new_asset_takes(tmp_path: Path):
    """As `dg scaffold defs dagster.asset NAME.py` writes it, in a project like this one; seen by Dagster's own tool."""
    package = Path(forecast_platform.__file__).parent
    ours = shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(package.parent / "pyproject.toml", tmp_path)
    (ours / "defs" / "hello.py").write_text("import dagster as dg\n\n\n@dg.asset\ndef hello() -> None: ...\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    dg_tool = Path(sys.executable).with_name("dg")
    done = subprocess.run([dg_tool, "list", "defs", "--json"], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert {each["asset_key"] for each in json.loads(done.stdout)["assets"]} == {*TABLE, "hello"}


def test_every_assets_page_links_to_its_file():
    for node in defs.resolve_asset_graph().asset_nodes:
        if node.is_executable:
            (reference,) = node.metadata["dagster/code_references"].code_references
            assert reference.file_path.endswith(f"/defs/{node.key.to_user_string()}.py")


def test_every_asset_is_as_written_here():
    graph = defs.resolve_asset_graph()
    found = {}
    for node in graph.asset_nodes:
        assert node.owners == ["team:forecasting"], node.key
        assert node.description, node.key
        policy = node.backfill_policy
        assert (policy is None) == (node.partitions_def is None)
        found[node.key.to_user_string()] = (
            node.group_name,
            set(node.kinds),
            " ".join(sorted(k.to_user_string() for k in node.parent_keys)),
            policy and policy.max_partitions_per_run,
        )
        # Dagster takes equal code versions over equal upstream versions for equal data; ours come from the lake.
        assert node.code_version is None
    assert found == TABLE


def test_every_asset_has_the_friday_weeks_from_the_earliest_on():
    for node in defs.resolve_asset_graph().asset_nodes:
        partitions = node.partitions_def
        # A landing place has no weeks; the extract is of the newest forecast only.
        if node.key in (dg.AssetKey("landing"), dg.AssetKey("tableau_extract")):
            assert partitions is None
            continue
        assert partitions is not None
        assert partitions.get_first_partition_key() == "1980-01-04"
        assert partitions.has_partition_key("2012-10-26")
        assert not partitions.has_partition_key("2012-10-25")


SERVE = """
import sys
import dagster as dg
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.server import LoadedRepositories
target = LoadableTargetOrigin(executable_path=sys.executable, module_name="forecast_platform.definitions")
(repository,) = LoadedRepositories(target, None, ["dagster"], None).definitions_by_name.values()
print(repository.asset_graph.get(dg.AssetKey("cleaned_series")).partitions_def.get_first_partition_key())
"""


@pytest.mark.parametrize("ailing", [False, True])
def test_the_partitions_that_a_code_server_shows_begin_with_the_data(
    with_history: Graph, retailer: MadeUpRetailer, ailing: bool
):
    """Those of a run, of a command and of these tests begin with the calendar: see the test before."""
    if ailing:
        with_history.platform.settings.warehouse.joinpath("catalog.db").write_bytes(b"not a catalog")
    done = python("-c", SERVE, cwd=Path.cwd(), env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == ("1980-01-04" if ailing else key(weeks_of(retailer)[0]))


@pytest.mark.usefixtures("far_from_utc")
def test_the_newest_partition_exists_from_its_own_date_on():
    partitions = defs.resolve_asset_graph().get(dg.AssetKey("raw_sales")).partitions_def
    assert isinstance(partitions, dg.WeeklyPartitionsDefinition)
    for now, newest in [("2025-01-30T23:59", "2025-01-24"), ("2025-01-31T00:00", "2025-01-31")]:
        at = dt.datetime.fromisoformat(now).replace(tzinfo=dt.UTC)
        with partition_loading_context(effective_dt=at):
            assert partitions.get_last_partition_key() == newest


def test_every_check_is_as_written_here():
    nodes = defs.resolve_asset_graph().asset_check_nodes
    assert {n.key.name: (n.key.asset_key.to_user_string(), n.blocking) for n in nodes} == CHECKS | NIGHTLY
    assert all(n.description for n in nodes)
    by_week = {n.key.name for n in nodes if n.partitions_def}
    assert by_week == {name for name, (asset, _) in CHECKS.items() if TABLE[asset][-1] == 1}


def test_jobs_and_sensor():
    assert {s.name for s in defs.sensors or ()} == {
        "landing_sensor",
        "extract_sensor",
        "failed_runs",
        "mended_runs",
        "monitor",
        "notifier",
    }
    for name, assets in {
        "weekly_forecast": set(WEEKLY),
        "ingest_history": {"raw_sales", "cleaned_series", "forecast_accuracy"},
    }.items():
        job = defs.resolve_job_def(name)
        assert {k.to_user_string() for k in job.asset_layer.executable_asset_keys} == assets
    assert {job.name for job in defs.jobs or ()} == {
        "weekly_forecast",
        "ingest_history",
        "lake_maintenance",
        "freshness",
        "database_import",
    }
    for each in defs.jobs or ():
        assert defs.resolve_job_def(each.name).run_tags["dagster/max_runtime"] == str(12 * 3600)


def test_loading_the_definitions_imports_nothing_heavy(home: Path):
    code = (
        "import sys, forecast_platform.definitions\n"
        "heavy = ('torch', 'matplotlib', 'pyiceberg', 'boto3', 'sagemaker', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not home.exists(), "loading writes nothing"


@pytest.mark.parametrize(("week_ends", "key"), [("SUN", "2025-02-02"), ("WED", "2025-02-05")])
def test_another_weekday_gives_other_partitions(home: Path, week_ends: str, key: str):
    code = (
        "from forecast_platform.defs.partitions import weekly\n"
        "print([k for k in ('2025-01-31', '2025-02-02', '2025-02-05') if weekly.has_partition_key(k)])"
    )
    done = python("-c", code, cwd=Path.cwd(), env=os.environ | {"FORECAST_WEEK_ENDS": week_ends})
    assert done.stdout.strip() == str([key])


# --- a weekly run


def test_a_weekly_run_from_landed_file_to_published_forecast(with_forecast: Graph, retailer: MadeUpRetailer):
    graph, (before, week, *_) = with_forecast, weeks_of(retailer)[-4:]
    graph.land(dict([week_file(retailer, week)]), at=landing_day(week))
    result = graph.week(week, drawn=True)
    assert result.success, result.failures
    assert result.materialized == {asset: [key(week)] for asset in WEEKLY}
    assert set(result.checks) == set(CHECKS)
    assert [name for name, check in result.checks.items() if check.blocking and not check.passed] == []
    assert result.checks["landing_contract"].passed
    assert result.checks["row_conservation"].passed
    assert {name for name, check in result.checks.items() if check.partition == key(week)} == {
        name for name, (asset, _) in CHECKS.items() if TABLE[asset][-1] == 1
    }

    observed = int((~np.isnan(retailer.sales[:, :, -3])).sum())
    known = int((~np.isnan(retailer.sales[:, :, :-2])).any(axis=2).sum())
    query = graph.lake.query
    assert query("SELECT count(*) AS n FROM raw_sales WHERE week = ?", [week]).to_pylist() == [{"n": observed}]
    (series,) = query(
        "SELECT count(*) AS n, count(*) FILTER (observed) AS observed FROM cleaned_series WHERE week = ?", [week]
    ).to_pylist()
    assert series["observed"] == observed
    assert series["n"] == known

    forecasts = query("SELECT * FROM forecasts WHERE forecast_week = ?", [week])
    rows = forecasts.to_pylist()
    levels = {level: sum(r["level"] == level for r in rows) for level in ("series", "store", "dept", "total")}
    assert levels == {"series": known * 4, "store": 3 * 4, "dept": 4 * 4, "total": 4}
    assert {r["target_week"] - week for r in rows} == {dt.timedelta(weeks=h) for h in (1, 2, 3, 4)}
    assert all((r["target_week"] - week).days == 7 * r["horizon"] for r in rows)
    assert all(r["p10"] <= r["p50"] <= r["p90"] for r in rows)
    assert all(np.isfinite([r["mean"], r["p10"], r["p90"]]).all() for r in rows)
    assert {(r["run_id"], r["as_known"]) for r in rows} == {(result.run_id, "now")}
    assert graph.lake.read("no_forecast").to_pylist() == []

    (model,) = query("SELECT * FROM models WHERE week = ?", [week]).to_pylist()
    assert model["trained_as_of"] <= week
    assert {r["model_version"] for r in rows} == {model["version"]}
    assert model["verdict"] in ("passed", "below_naive")
    assert model["target"] == SALES
    assert 0 <= model["network_share"] <= 1
    scored = query("SELECT DISTINCT week, forecast_week, horizon FROM forecast_accuracy").to_pylist()
    assert scored == [{"week": week, "forecast_week": before, "horizon": 1}]

    # The numbers people see are the numbers in the lake, and the costs are shown.
    shown = result.metadata("forecast_table")
    assert shown["rows"] == len(rows)
    assert shown["series"] == known
    for asset in ("deepar_model", "batch_predictions"):
        told = result.metadata(asset)
        assert (told["target"], told["network_share"]) == (model["target"], model["network_share"])
        assert told["covariates"] == ["promotion"]
    for asset in ASSETS:
        assert {"seconds", "cpu_seconds", "process_peak_mb"} <= set(result.metadata(asset))
    columns = {column.name: column for column in shown["dagster/column_schema"].columns}
    assert columns["p50"].description.startswith("Median of the forecast")
    assert all(column.description for column in columns.values())


def test_candidates_compete_and_those_that_learn_nothing_are_served_beside_networks(
    with_history: Graph, retailer: MadeUpRetailer
):
    """Networks trained for one epoch have no more than a part; why, and who could not compete, is in `models`."""
    graph, week = with_history, weeks_of(retailer)[-4]
    graph.platform.settings = graph.platform.settings.model_copy(update={"target": "auto"})
    result = graph.week(week)
    assert result.success, result.failures
    (model,) = graph.lake.query("SELECT * FROM models").to_pylist()
    assert 0 <= model["network_share"] < 0.9
    weights = result.metadata("deepar_model")["weights"]
    assert weights.keys() - SHIPPED.keys()
    assert sum(each[0] for each in weights.values()) == pytest.approx(1)
    tried = json.loads(model["candidates"])
    assert all(0 < tried[name]["wape"] < 5 for name in (SALES, SKIP, *weights))
    assert {name: tuple(each["weights"].values()) for name, each in tried.items() if "weights" in each} == {
        name: tuple(each) for name, each in weights.items()
    }
    assert tried[COUNTS] == {"left_out": "sales are not small whole numbers"}
    assert tried[RATIO]["left_out"].startswith("needs ")
    assert len(model["why"]) <= 400
    rows = graph.lake.read("forecasts").to_pylist()
    assert all(r["p10"] <= r["p50"] <= r["p90"] for r in rows)
    by = {level: sum(r["mean"] for r in rows if r["level"] == level) for level in ("series", "store", "dept", "total")}
    assert by == pytest.approx(dict.fromkeys(by, by["total"])), "sums are of the series' own paths"
    assert ("artifact" in result.metadata("deepar_model")) == (model["network_share"] > 0)
    graph.land(dict([week_file(retailer, weeks_of(retailer)[-3])]), at=landing_day(weeks_of(retailer)[-3]))
    later = graph.week(weeks_of(retailer)[-3])
    assert later.success, later.failures
    assert later.checks["outputs_verified"].passed


def test_the_same_week_again_commits_nothing(with_forecast: Graph, retailer: MadeUpRetailer):
    lake = with_forecast.lake
    rows, states = contents(lake, ignoring=()), snapshots(lake)
    assert rows["forecasts"]
    assert with_forecast.week(weeks_of(retailer)[-4]).success
    assert contents(lake, ignoring=()) == rows, "run_id and created_at too: the first run wrote them"
    assert snapshots(lake) == states


def test_a_forecast_does_not_change_when_later_weeks_land(with_forecast: Graph, retailer: MadeUpRetailer):
    graph, (week, *later) = with_forecast, weeks_of(retailer)[-4:]
    rows, state = contents(graph.lake), graph.lake.snapshot("forecasts")
    graph.land(dict(week_file(retailer, w) for w in later))
    assert graph.history(later[0], later[-1]).success
    assert graph.week(week).success
    again = contents(graph.lake)
    for table in ("models", "forecasts", "no_forecast"):
        assert again[table] == rows[table]
    assert graph.lake.snapshot("forecasts") == state


def test_a_backfill_gives_equal_forecasts_and_scores_in_any_order(
    history_home: HistoryHome, first_forecast_home: HistoryHome, retailer: MadeUpRetailer
):
    (first, between, last), found = weeks_of(retailer)[-6:-3], []
    # The last week first is the home with its forecast, and then the first.
    for home, order in ((history_home, (first, last)), (first_forecast_home, (first,))):
        graph = home.restore()
        for week in order:
            result = graph.week(week)
            assert result.success, result.failures
            # On record are all the weeks a run scored, also those after its own whose sales are there already.
            ahead = [first, between, last] if week == first else [last]
            assert sorted(result.materialized["forecast_accuracy"]) == [key(w) for w in ahead]
        found.append({t: contents(graph.lake)[t] for t in ("models", "forecasts", "no_forecast", "forecast_accuracy")})
    in_order, reversed_order = found
    assert {r["forecast_week"] for r in in_order["forecasts"]} == {first, last}
    assert {(r["week"], r["forecast_week"]) for r in in_order["forecast_accuracy"]} == {(between, first), (last, first)}
    assert in_order == reversed_order


# --- as known now, as known then


def test_as_known_then_differs_from_now_after_a_restatement_that_landed_later(
    with_forecast: Graph, retailer: MadeUpRetailer
):
    graph, week = with_forecast, weeks_of(retailer)[-4]
    known_then = [row | {"as_known": "then"} for row in contents(graph.lake)["forecasts"]]
    assert known_then
    # Months later the last weeks turn out to have sold ten times as much.
    recent = weeks_of(retailer)[-12:-3]
    lines = ["store,dept,date,weekly_sales"] + [
        f"{r['store']},{r['dept']},{r['week']},{r['sales'] * 10:.2f}"
        for r in graph.lake.query("SELECT * FROM cleaned_series WHERE observed AND week >= ?", [recent[0]]).to_pylist()
    ]
    graph.land({"sales/restated.csv": "\n".join(lines).encode()}, at=landing_day(week) + dt.timedelta(days=90))
    assert graph.history(recent[0], recent[-1]).success

    assert graph.week(week, as_known="then").success
    again = contents(graph.lake)["forecasts"]
    assert again == known_then, "what landed later is not known then"
    assert graph.week(week).success
    now = contents(graph.lake)["forecasts"]
    assert {r["as_known"] for r in now} == {"now"}

    def total(rows: list[dict]) -> float:
        return sum(r["p50"] for r in rows if r["level"] == "total")

    assert total(now) > 2 * total(known_then)


def test_predictions_of_the_data_of_now_are_not_published_as_known_then(with_history: Graph, retailer: MadeUpRetailer):
    """The table's run asks for another mode than the one its predictions were made in."""
    graph, week = with_history, weeks_of(retailer)[-4]
    made = graph.week(week, ("deepar_model", "batch_predictions"))
    assert made.metadata("batch_predictions")["as_known"] == "now"
    table = graph.week(week, ("forecast_table",), as_known="then")
    assert (
        "is of the data as known now, not as known then; run batch_predictions again"
        in table.failures["forecast_table"]
    )
    assert not graph.lake.read("forecasts").num_rows
    assert graph.week(week, ("forecast_table",)).success


def test_as_known_then_says_nothing_of_series_that_landed_later(with_history: Graph, retailer: MadeUpRetailer):
    """A store whose history arrives late is no series that lost its forecast: then it was not known."""
    graph, week = with_history, weeks_of(retailer)[-4]
    recent = weeks_of(retailer)[-12:-3]
    late = "store,dept,date,weekly_sales\n" + "".join(f"9,1,{w},100\n" for w in recent)
    graph.land({"sales/late.csv": late.encode()}, at=landing_day(week) + dt.timedelta(days=90))
    assert graph.history(recent[0], recent[-1]).success
    result = graph.week(week, as_known="then")
    assert result.success, {name: check.description for name, check in result.checks.items() if not check.passed}
    assert {r["store"] for r in graph.lake.read("forecasts").to_pylist()} == {"1", "2", "3", None}


def test_as_known_then_with_nothing_known_then_says_so(graph: Graph, retailer: MadeUpRetailer):
    weeks = weeks_of(retailer)[:-3]
    graph.land({"sales/h.csv.gz": history_files(retailer, weeks[-1], dirty_rows=0)["sales/sales_history.csv.gz"]})
    assert graph.history(weeks[0], weeks[-1]).success
    result = graph.week(weeks[-1], as_known="then")
    assert not result.success
    (failure,) = result.failures.values()
    assert failure == f"up to {weeks[-1]}, as known then: no observed sales: nothing to build series from"


def test_any_other_as_known_is_refused(with_history: Graph, retailer: MadeUpRetailer):
    result = with_history.week(weeks_of(retailer)[-4], as_known="tomorrow")
    assert result.failures == {"deepar_model": "the run's tag forecast/as_known is 'tomorrow'; use now or then"}


def test_a_series_that_a_restatement_took_out_of_the_past_is_not_missed_there(
    with_history: Graph, retailer: MadeUpRetailer
):
    """Its old rows stay in raw_sales, and it sells later; an earlier week still owes it no forecast."""
    graph, weeks = with_history, weeks_of(retailer)
    head = "store,dept,date,weekly_sales\n"
    graph.land({"sales/extra.csv": (head + f"1,77,{weeks[-9]},100\n").encode()})
    assert graph.week(weeks[-9], only=["raw_sales", "cleaned_series"]).success
    graph.land({"sales/extra.csv": (head + f"1,77,{weeks[-4]},100\n").encode()})
    assert graph.history(weeks[-9], weeks[-4]).success
    result = graph.week(weeks[-6])
    assert result.success, {name: check.description for name, check in result.checks.items() if not check.passed}


# --- weeks that cannot be forecast


def test_an_incomplete_week_stops_before_the_model_and_names_the_missing_stores(
    with_history: Graph, retailer: MadeUpRetailer
):
    graph, week = with_history, weeks_of(retailer)[-3]
    name, data = week_file(retailer, week)
    header, *lines = data.decode().splitlines()
    first_store = [line for line in lines if line.startswith("1,")]
    graph.land({name: "\n".join([header, *first_store]).encode()})
    result = graph.week(week)
    assert not result.success
    assert result.materialized == {asset: [key(week)] for asset in ("raw_sales", "cleaned_series")}
    check = result.checks["week_complete"]
    assert not check.passed
    assert check.description is not None
    assert check.description.endswith("stores not heard of: 2, 3")
    assert graph.lake.read("forecasts").num_rows == 0
    # The rest of the week lands, under another name: now it goes through.
    graph.land({"sales/rest.csv": "\n".join([header, *(x for x in lines if x not in first_store)]).encode()})
    assert graph.week(week).success


def test_too_little_history_is_a_failure_that_counts(graph: Graph, retailer: MadeUpRetailer):
    week = weeks_of(retailer)[9]
    graph.land(history_files(retailer, week, dirty_rows=0))
    result = graph.week(week)
    assert not result.success
    observed = int((~np.isnan(retailer.sales[:, :, :10])).sum())
    # One week's run ingests the file and cleans that week only.
    cleaned = graph.lake.query("SELECT count(*) AS n FROM cleaned_series WHERE observed").to_pylist()[0]["n"]
    assert graph.lake.read("raw_sales").num_rows == observed
    failure = result.failures["deepar_model"]
    assert failure.startswith(f"1 weeks and {cleaned} observations up to {week}; a model needs 8 weeks")
    assert failure.endswith("Land more history under sales/.")
    assert "forecast_table" not in result.materialized


def test_history_enough_to_train_but_not_to_hold_weeks_out_is_a_model_that_was_not_judged(
    graph: Graph, retailer: MadeUpRetailer
):
    seen = (~np.isnan(retailer.sales)).sum(axis=(0, 1)).cumsum()
    last = int(np.flatnonzero(seen >= 310)[0])  # some of them in series too short to train on
    weeks = weeks_of(retailer)[: last + 1]
    assert seen[last - 4] < 300 < seen[last]
    graph.land(history_files(retailer, weeks[-1], dirty_rows=0))
    assert graph.history(weeks[0], weeks[-1]).success
    result = graph.week(weeks[-1])
    assert result.success, result.failures
    assert graph.lake.read("models").to_pylist()[0]["verdict"] == "unjudged"


def test_a_week_without_a_model_says_what_to_do(with_history: Graph, retailer: MadeUpRetailer):
    week = weeks_of(retailer)[-4]
    result = with_history.week(week, only=["batch_predictions"])
    assert result.failures == {
        "batch_predictions": f"no model for {week}; materialize deepar_model for this partition first"
    }


def test_a_model_that_saw_the_future_of_its_week_is_an_error(with_forecast: Graph, retailer: MadeUpRetailer):
    graph, (early, week) = with_forecast, weeks_of(retailer)[-5:-3]
    row = graph.lake.read("models").to_pylist()[0]
    model = Path(graph.platform.engine.models / row["training_digest"] / "training.json")
    trained = json.loads(model.read_text())
    model.write_text(json.dumps(trained | {"trained_as_of": key(week + dt.timedelta(weeks=1))}))
    result = graph.week(week, only=["batch_predictions"])
    assert "which" in result.failures["batch_predictions"]
    assert "did not know" in result.failures["batch_predictions"]
    assert early < week


def test_predictions_that_are_not_those_written_are_not_published(with_forecast: Graph, retailer: MadeUpRetailer):
    graph, week = with_forecast, weeks_of(retailer)[-4]
    before = graph.lake.snapshot("forecasts")
    (series,) = (graph.platform.settings.transforms / key(week)).glob("series-*.parquet")
    pq.write_table(pq.read_table(series).slice(1), series)
    result = graph.week(week, only=["forecast_table"])
    assert not result.success
    assert "run batch_predictions again" in result.failures["forecast_table"]
    assert graph.lake.snapshot("forecasts") == before


# --- many weeks


def test_a_history_records_one_materialization_a_week(graph: Graph, retailer: MadeUpRetailer):
    weeks = weeks_of(retailer)[:-3]
    graph.land(history_files(retailer, weeks[-1], dirty_rows=6))
    result = graph.history(weeks[0], weeks[-1])
    assert result.success, result.failures
    keys = [key(week) for week in weeks]
    assert {asset: sorted(done) for asset, done in result.materialized.items()} == {
        "raw_sales": keys,
        "cleaned_series": keys,
    }
    for asset in ("raw_sales", "cleaned_series"):
        assert graph.instance.get_materialized_partitions(dg.AssetKey(asset)) == set(keys)
    check = result.checks["landing_contract"]
    assert not check.passed
    for rule in ("wrong_weekday", "not_a_number", "duplicate_row"):
        assert rule in (check.description or "")
    assert result.checks["row_conservation"].passed
    assert result.metadata("raw_sales")["rows_quarantined"] == 6


def test_a_history_run_equals_the_same_weeks_one_by_one(graph: Graph, retailer: MadeUpRetailer):
    """The same rows in one drop or in many; the grid of a week does not depend on how it was built."""
    weeks = weeks_of(retailer)[:4]
    for week in weeks:
        graph.land(dict([week_file(retailer, week)]), at=landing_day(week))
        assert graph.week(week, only=["raw_sales", "cleaned_series"]).success
    one_by_one = contents(graph.lake)["cleaned_series"]
    state = graph.lake.snapshot("cleaned_series")
    assert graph.history(weeks[0], weeks[-1]).success
    assert contents(graph.lake)["cleaned_series"] == one_by_one
    assert graph.lake.snapshot("cleaned_series") == state


def test_the_nightly_maintenance_keeps_every_row(with_history: Graph):
    before = with_history.lake.read("cleaned_series")
    result = with_history.run("lake_maintenance")
    assert result.success, result.failures
    assert with_history.lake.read("cleaned_series").equals(before)
    assert {schedule.job_name for schedule in definitions.defs.schedules} == {"lake_maintenance", "freshness"}


def test_assets_pages_show_lineage_of_columns_and_lead_to_the_dashboard(with_forecast: Graph, retailer: MadeUpRetailer):
    graph, week = with_forecast, weeks_of(retailer)[-3]
    graph.land(dict([week_file(retailer, week)]), at=landing_day(week))
    result = graph.week(week, drawn=True)
    for asset in ("cleaned_series", "deepar_model", "forecast_table", "forecast_accuracy"):
        assert result.metadata(asset)["dagster/column_lineage"], asset
    for asset in ("raw_sales", "deepar_model", "forecast_table", "forecast_accuracy", "weekly_report"):
        assert str(result.metadata(asset)["dashboard"]).startswith("http://127.0.0.1:8050/"), asset
    assert "| store | dept | run before | this run | change |" in result.metadata("forecast_table")["largest_revisions"]
    assert "| store | dept | sold | forecast | off by |" in result.metadata("forecast_accuracy")["worst_series"]
    assert "data:image/png" in result.metadata("forecast_accuracy")["coverage_by_horizon"]
