"""`forecast doctor` on a home that another version of the platform made: what comes of it, and what to do."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyiceberg.types import DoubleType

from forecast_platform.cli import main
from forecast_platform.clouds.base import open_lake
from forecast_platform.lake.tables import LakeError
from forecast_platform.models.trained import code_version
from forecast_platform.settings import Settings

WEEK = dt.date(2025, 1, 3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one model, made by this version."""
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")  # the command sets it; it is put back afterwards
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    lake = open_lake(Settings())
    for name in lake.specs:
        lake.table(name)
    model = {"week": WEEK, "version": "ratio-1234", "training_digest": "key", "target": "ratio"}
    lake.replace_weeks("models", [WEEK], pa.Table.from_pylist([model], schema=lake.specs["models"].schema))
    trained(tmp_path / "home", {"code": code_version()})
    return tmp_path / "home"


def trained(home: Path, content: dict[str, str]) -> None:
    folder = home / "models" / "key"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text(json.dumps(content))


def line_of(name: str) -> str:
    """A line of the doctor."""
    told = CliRunner().invoke(main, ["doctor", "--profile", "local"])
    (line,) = [line for line in told.output.splitlines() if line[6:].startswith(name)]
    assert (told.exit_code == 0) == line.startswith("ok"), told.output
    return line


def upgrade() -> str:
    return line_of("upgrade")


@pytest.mark.parametrize(
    ("locale", "country", "other"),
    [("de_DE", "", True), ("de-DE", "DE", False), ("de_DE", "de", False), ("de", "", False), ("en", "", False)],
)
def test_where_holidays_are_of_another_country_than_figures_it_is_said(
    locale: str, country: str, other: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_LOCALE", locale)
    if country:
        monkeypatch.setenv("FORECAST_COUNTRY", country)
    assert ("; but holidays are those of US, see the setting country" in line_of("words")) == other


def test_a_home_of_this_version_needs_nothing(home: Path) -> None:
    assert upgrade() == "ok    upgrade   nothing here is of another version"


def test_a_home_of_an_earlier_version_is_taken_over_and_the_doctor_says_how(home: Path) -> None:
    trained(home, {"version": "ratio-1234"})  # before the code was kept beside a model
    (home / "dagster").mkdir(exist_ok=True)
    old = "python_logs:\n  managed_python_loggers: [forecast_platform.aws]\n"
    (home / "dagster" / "dagster.yaml").write_text(old)
    lake = open_lake(Settings())
    with lake.table("forecast_accuracy").update_schema() as change:
        change.delete_column("interval")
    with lake.table("cleaned_series").update_schema() as change:
        change.delete_column("filled").delete_column("store_closed")
    line = upgrade()
    assert line.startswith("ok    upgrade   made by an earlier version: its tables get their new columns")
    assert "cleaned_series: filled, store_closed; forecast_accuracy: interval" in line
    assert "not that of ratio-1234, so the next run trains once anew; forecasts that are published stay" in line
    assert f"set managed_python_loggers: [forecast_platform] in {home}/dagster/dagster.yaml" in line
    lake = open_lake(Settings())
    for name in lake.specs:
        lake.table(name)  # as whoever writes next does
    (home / "dagster" / "dagster.yaml").unlink()
    trained(home, {"code": code_version()})
    assert upgrade() == "ok    upgrade   nothing here is of another version"


def test_a_lake_of_a_newer_version_is_refused_before_anything_in_it_is_lost(home: Path) -> None:
    lake = open_lake(Settings())
    with lake.table("models").update_schema() as change:
        change.add_column("temper", DoubleType())
    with lake.table("forecasts").update_schema() as change:
        change.add_column("p33", DoubleType())  # other quantiles are no other version
    line = upgrade()
    assert line.startswith("FAIL  upgrade   the table models was written by a newer version")
    assert "does not know its columns temper. Use the version that wrote it, or a backup from before" in line
    before = lake.catalog.load_table(("forecast", "models")).metadata_location
    empty = lake.specs["models"].schema.empty_table()
    with pytest.raises(LakeError, match="written by a newer version"):
        lake.replace_weeks("models", [WEEK], empty)
    assert lake.catalog.load_table(("forecast", "models")).metadata_location == before
    assert lake.query("SELECT version FROM models").to_pylist() == [{"version": "ratio-1234"}]  # reading goes on
