"""The files for BI tools name the views and columns there are, in the shapes the tools' own models ask for."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pyarrow as pa
import pytest
from botocore.validate import ParamValidator

from forecast_platform.lake.tables import VIEWS, table_specs
from forecast_platform.settings import Settings

BI = Path(__file__).parents[2] / "bi"
QUICKSIGHT = {"date32": "DATETIME", "timestamp": "DATETIME", "string": "STRING", "int": "INTEGER", "double": "DECIMAL"}
TABLEAU = {"date32": "date", "timestamp": "datetime", "string": "string", "int": "integer", "double": "real"}


@pytest.fixture(params=["", "0.05,0.5,0.95"])
def bi(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files as they are, or written for other quantiles."""
    if not request.param:
        return BI
    monkeypatch.setenv("FORECAST_QUANTILES", request.param)
    folder = tmp_path / "bi"
    shutil.copytree(BI, folder)
    runpy.run_path(str(BI / "with_quantiles.py"))["main"](folder)
    return folder


@pytest.fixture
def views(bi: Path) -> dict[str, pa.Schema]:
    """The views' columns as DuckDB works them out from the tables'."""
    con = duckdb.connect()
    for name, spec in table_specs(Settings().quantile_columns).items():
        con.register(name, spec.schema.empty_table())
    for name, sql in VIEWS.items():
        con.execute(f"CREATE VIEW {name} AS {sql}")
    return {name: con.sql(f"SELECT * FROM {name}").to_arrow_table().schema for name in VIEWS}


def types(schema: pa.Schema, names: dict[str, str]) -> dict[str, str]:
    return {field.name: next(t for kind, t in names.items() if str(field.type).startswith(kind)) for field in schema}


def complaint(operation: str, parameters: dict[str, Any]) -> str:
    """What the AWS SDK says against a request; nothing where it would send it."""
    text = json.dumps(parameters).replace("ACCOUNT", "123456789012").replace("REGION", "us-east-1")
    client = boto3.Session().client("quicksight", region_name="us-east-1")
    shape = client.meta.service_model.operation_model(operation).input_shape
    report: str = ParamValidator().validate(json.loads(text), shape).generate_report()
    return report


def test_quicksight_takes_the_data_source_and_sets(bi: Path, views: dict[str, pa.Schema]) -> None:
    source = json.loads((bi / "quicksight" / "data_source.json").read_text())
    assert complaint("CreateDataSource", source) == ""
    sets = json.loads((bi / "quicksight" / "data_sets.json").read_text())
    found = {}
    for made in sets:
        assert complaint("CreateDataSet", made) == ""
        (table,) = (entry["RelationalTable"] for entry in made["PhysicalTableMap"].values())
        assert table["DataSourceArn"].endswith(f"datasource/{source['DataSourceId']}")
        found[table["Name"]] = {column["Name"]: column["Type"] for column in table["InputColumns"]}
    assert found == {name: types(schema, QUICKSIGHT) for name, schema in views.items()}


def test_tableau_s_data_source_names_the_view_and_its_columns(bi: Path, views: dict[str, pa.Schema]) -> None:
    root = ET.parse(bi / "tableau" / "forecast_athena.tds").getroot()
    relation = root.find(".//relation")
    assert relation is not None
    assert relation.get("table") == "[forecast].[latest_forecast]"
    found = {str(c.get("name")).strip("[]"): c.get("datatype") for c in root.findall("column")}
    assert found == types(views["latest_forecast"], TABLEAU)


def test_the_files_are_those_of_the_quantiles_as_shipped(tmp_path: Path) -> None:
    shutil.copytree(BI, tmp_path / "bi")
    runpy.run_path(str(BI / "with_quantiles.py"))["main"](tmp_path / "bi")
    for name in ("quicksight/data_sets.json", "tableau/forecast_athena.tds"):
        assert (tmp_path / "bi" / name).read_text() == (BI / name).read_text()


def test_the_page_names_every_view(views: dict[str, pa.Schema]) -> None:
    assert set(re.findall(r"^- `(\w+)`", (BI / "README.md").read_text(), re.MULTILINE)) == set(views)
