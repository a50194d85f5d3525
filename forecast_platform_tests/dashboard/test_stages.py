"""What runs took, from a real Dagster instance that the command line's runner wrote."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import dagster as dg
import pytest
from starlette.testclient import TestClient

from forecast_platform.dashboard.app import build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.dashboard.stages import Stages
from forecast_platform_tests.defs.graph import Graph


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return tmp_path


def test_without_a_dagster_there_is_nothing_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert Stages(tmp_path).recent() == []


def test_seconds_and_cost_by_stage(dagster_home: Path, published: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    @dg.asset
    def forecast_table() -> dg.MaterializeResult:  # type: ignore[type-arg]
        return dg.MaterializeResult(metadata={"seconds": 1.5, "rows": 3})

    @dg.asset(deps=[forecast_table])
    def deepar_model() -> dg.MaterializeResult:  # type: ignore[type-arg]
        return dg.MaterializeResult(metadata={"seconds": 30, "cost_usd": 0.25})

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        for _ in range(2):
            assert dg.materialize([forecast_table, deepar_model], instance=instance).success
        assert dg.materialize([deepar_model], instance=instance, selection=["deepar_model"]).success
    stages = Stages(dagster_home)
    found = stages.recent()
    assert len(found) == 2, "a run that published nothing is not one of a week"
    assert [run.seconds for run in found] == [{"forecast_table": 1.5, "deepar_model": 30.0}] * 2
    assert [(run.total, run.usd) for run in found] == [(31.5, 0.25)] * 2
    assert found[0].ended_at >= found[1].ended_at > dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert len(stages.recent(limit=1)) == 1
    stages.close()

    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    app = build_app(published.platform.settings, Source(published.lake), hosts=("testserver",))
    with TestClient(app) as client:
        page = client.get("/runs").text
    assert "What runs took" in page
    assert re.search(r'<td class="strong">31.5</td><td>0.25</td>', page)
