"""Settings: who wins, what is refused, and that a refusal says what to change."""

from __future__ import annotations

import datetime as dt
import json
import os

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from forecast_platform.landing.dialects import PRESETS
from forecast_platform.selection import plans
from forecast_platform.series.covariates import Declaration, Declarations
from forecast_platform.settings import Settings, get_settings, home


@pytest.fixture(autouse=True)
def home_folder(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("FORECAST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def test_arguments_then_environment_then_file_then_defaults(home_folder, monkeypatch):
    (home_folder / "settings.toml").write_text("num_samples = 50\nseed = 3\ncontext_length = 20\n")
    monkeypatch.setenv("FORECAST_NUM_SAMPLES", "60")
    monkeypatch.setenv("FORECAST_SEED", "4")
    settings = Settings(num_samples=70)
    assert (settings.num_samples, settings.seed, settings.context_length) == (70, 4, 20)
    assert settings.prediction_length == 12


def test_defaults_need_no_file_and_no_environment(home_folder):
    settings = Settings()
    assert (settings.calendar.ends, settings.first_week) == ("FRI", dt.date(1980, 1, 1))
    assert settings.contract == PRESETS["canonical"]
    assert settings.quantile_columns == ("p10", "p20", "p30", "p40", "p50", "p60", "p70", "p80", "p90")
    assert settings.landing == str(home_folder / "landing")
    folders = (settings.warehouse, settings.models, settings.transforms, settings.dagster_home)
    assert {folder.parent for folder in folders} == {settings.home} == {home_folder}
    assert len(set(folders)) == 4


def test_home_is_read_when_settings_are_made(home_folder, monkeypatch, tmp_path):
    before = Settings()
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "other"))
    assert Settings().home == home() == tmp_path / "other"
    assert before.home == home_folder
    monkeypatch.setenv("FORECAST_HOME", "~/lake")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / "lake"
    monkeypatch.setenv("FORECAST_HOME", "")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".forecast"


def test_settings_of_the_process_are_read_once(monkeypatch):
    first = get_settings()
    monkeypatch.setenv("FORECAST_SEED", "9")
    assert get_settings() is first
    get_settings.cache_clear()
    assert get_settings().seed == 9


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 5


def test_the_week_ends_where_the_settings_say_before_where_the_preset_says(monkeypatch):
    assert Settings(preset="walmart").calendar.ends == "FRI"
    monkeypatch.setenv("FORECAST_WEEK_ENDS", "sunday")
    settings = Settings(preset="walmart")
    assert settings.contract.week_ends == settings.calendar.ends == "SUN"
    assert settings.calendar.first_week == dt.date(1980, 1, 6)
    assert settings.contract.date_format == PRESETS["walmart"].date_format, "the preset's, still"


def test_the_contract_takes_an_installations_own_changes(monkeypatch):
    monkeypatch.setenv("FORECAST_COLUMNS", '{"weekly_sales": "Umsatz"}')
    monkeypatch.setenv("FORECAST_DELIMITER", ";")
    monkeypatch.setenv("FORECAST_DATE_FORMAT", "%d.%m.%Y")
    contract = Settings().contract
    assert (contract.columns, contract.delimiter) == ({"weekly_sales": "Umsatz"}, ";")
    assert contract.date_format == "%d.%m.%Y"


def test_tables_in_the_file(home_folder):
    (home_folder / "settings.toml").write_text(
        'quantiles = [0.25, 0.5, 0.75]\n[columns]\nweekly_sales = "Umsatz"\n[hyperparameters]\nepochs = "3"\n'
    )
    settings = Settings()
    assert settings.quantile_columns == ("p25", "p50", "p75")
    assert settings.columns == {"weekly_sales": "Umsatz"}
    assert settings.hyperparameters == {"epochs": "3"}


@pytest.mark.parametrize(("text", "columns"), [
    ("0.5", ("p50",)),
    ("0.1,0.5,0.9", ("p10", "p50", "p90")),
    ("0.01, 0.29, 0.5, 0.58, 0.99", ("p1", "p29", "p50", "p58", "p99")),
])  # fmt: skip
def test_quantiles_from_the_environment(monkeypatch, text, columns):
    monkeypatch.setenv("FORECAST_QUANTILES", text)
    settings = Settings()
    assert settings.quantile_columns == columns
    assert settings.quantiles == tuple(float(part) for part in text.split(","))


@pytest.mark.parametrize(("text", "why"), [
    ("0.9,0.5,0.1", "ascend"),
    ("0.1,0.5,0.5,0.9", "ascend"),
    ("0.1,0.9", "hold 0.5"),
    ("0,0.5,1", "between 0 and 1"),
    ("0.1,nan,0.5", "between 0 and 1"),
    ("0.025,0.5,0.975", "whole percents"),
    ("a,b", "could not convert"),
    ("", "could not convert"),
    ("[0.1,0.5]", "could not convert"),
])  # fmt: skip
def test_wrong_quantiles_are_refused(monkeypatch, text, why):
    monkeypatch.setenv("FORECAST_QUANTILES", text)
    with pytest.raises(ValidationError, match=why) as error:
        Settings()
    assert "quantiles" in str(error.value)


@pytest.mark.parametrize(("name", "value"), [
    ("num_samples", "9"),
    ("num_samples", "many"),
    ("complete_share", "0"),
    ("complete_share", "1.01"),
    ("active_weeks", "0"),
    ("first_week", "soon"),
    ("seed", "-1"),
    ("context_length", "-1"),
    ("prediction_length", "0"),
    ("target", "profit"),
    ("profile", "mars"),
    ("week_ends", "FUNDAY"),
    ("date_format", "%d"),
    ("delimiter", "||"),
    ("preset", "target"),
])  # fmt: skip
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"FORECAST_{name.upper()}", value)
    with pytest.raises(ValidationError) as error:
        Settings()
    assert name in str(error.value)
    assert value in str(error.value)


@pytest.mark.parametrize("name", ["columns", "hyperparameters"])
def test_what_is_no_json_is_refused_by_name(monkeypatch, name):
    monkeypatch.setenv(f"FORECAST_{name.upper()}", "{weekly_sales: Umsatz}")
    with pytest.raises(SettingsError, match=name):
        Settings()


KNOWN_AHEAD = {"promo": "known:0", "price": "known", "rain": "past:last"}


def test_covariates_from_the_environment_from_the_file_and_as_an_argument(home_folder, monkeypatch):
    assert Settings().declarations == Declarations()
    want = Declarations(
        (Declaration("promo", fill=0.0), Declaration("price"), Declaration("rain", False, "last")), "days"
    )
    assert Settings(covariates=KNOWN_AHEAD, exposure="days").declarations == want
    monkeypatch.setenv("FORECAST_COVARIATES", json.dumps(KNOWN_AHEAD))
    monkeypatch.setenv("FORECAST_EXPOSURE", "Days")
    assert Settings().declarations == want
    monkeypatch.delenv("FORECAST_COVARIATES")
    (home_folder / "settings.toml").write_text('[covariates]\npromo = "known:0"\nprice = "known"\nrain = "past:last"\n')
    assert Settings().declarations == want


@pytest.mark.parametrize(("text", "covariates"), [("auto", None), ("none", ()), ("{}", ())])
def test_covariates_in_a_word(monkeypatch, home_folder, text, covariates):
    monkeypatch.setenv("FORECAST_COVARIATES", text)
    assert Settings().declarations.covariates == covariates
    monkeypatch.delenv("FORECAST_COVARIATES")
    (home_folder / "settings.toml").write_text(f"covariates = {text if text == '{}' else json.dumps(text)}\n")
    assert Settings().declarations.covariates == covariates


@pytest.mark.parametrize(("name", "value", "why"), [
    ("covariates", '{"promo": "knwon"}', "promo is declared as 'knwon'; write known, known:0"),
    ("covariates", "all", "auto"),
    ("country", "Germany", "country"),
    ("country", "", "country"),
])  # fmt: skip
def test_wrong_declarations_say_what_to_write(monkeypatch, name, value, why):
    monkeypatch.setenv(f"FORECAST_{name.upper()}", value)
    with pytest.raises(ValidationError, match=why):
        Settings()


def test_an_exposure_declared_as_past_is_refused():
    with pytest.raises(ValidationError, match="days is the exposure and must be known ahead"):
        Settings(covariates={"days": "past"}, exposure="days")


def test_what_the_network_forecasts_is_chosen_unless_one_says(monkeypatch):
    assert (Settings().target, Settings().context_length) == ("auto", 0)
    assert set(plans(Settings())) > {"sales", "ratio"}
    for target in ("sales", "ratio"):
        monkeypatch.setenv("FORECAST_TARGET", target)
        monkeypatch.setenv("FORECAST_CONTEXT_LENGTH", "7")
        assert list(plans(Settings())) == [target]
        assert plans(Settings())[target]["context_length"] == "7"


def test_columns_that_do_not_exist_are_refused(monkeypatch):
    monkeypatch.setenv("FORECAST_COLUMNS", '{"sales": "Umsatz"}')
    with pytest.raises(ValidationError, match="columns maps sales"):
        Settings()


def test_every_setting_is_described():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert len(field.description) < 120, name
