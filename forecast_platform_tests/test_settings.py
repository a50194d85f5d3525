"""Settings: who wins, what is refused, and that a refusal says what to change."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from forecast_platform.history.covariates import Declaration, Declarations
from forecast_platform.landing.dialects import PRESETS
from forecast_platform.models.registry import plans
from forecast_platform.settings import OTHER_VARIABLES, Settings, get_settings, home


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


def test_a_queue_beside_a_folder_is_refused_as_nothing_would_ever_be_told_of_it(tmp_path):
    with pytest.raises(ValidationError, match="queue_url tells of files in S3, and landing_url is the folder"):
        Settings(landing_url=str(tmp_path), queue_url="https://sqs.eu-west-1.amazonaws.com/1/landing")


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


# ------------------------------------------------------------------------------------- nothing is ignored in silence


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FORECAST_WEEK_END", "FORECAST_WEEK_ENDS"),
        ("FORECAST_WEEKEND", "FORECAST_WEEK_ENDS"),
        ("forecast_sede", "FORECAST_SEED"),
        ("FORECAST_HOMES", "FORECAST_HOME"),
        ("FORECAST_QWERTZUIOP", ""),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_name_it_is_like(monkeypatch, name, meant):
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError) as error:
        Settings()
    assert f"unknown setting {name} in the environment" in str(error.value)
    assert (f"did you mean {meant}?" in str(error.value)) if meant else "did you mean" not in str(error.value)


def test_variables_of_ours_that_are_no_settings_are_let_be(monkeypatch):
    for name in OTHER_VARIABLES:
        if name != "FORECAST_HOME":
            monkeypatch.setenv(name, "x")
    Settings()
    root = Path(__file__).resolve().parents[1]
    files = [f for kind in ("*.py", "*.yaml", "Makefile", "*.Dockerfile", "*.md") for f in root.rglob(kind)]
    named = {
        n for f in files if ".venv" not in f.parts for n in re.findall(r"\bFORECAST_[A-Z_]*[A-Z]\b", f.read_text())
    }
    known = {f"FORECAST_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    made_up = {"FORECAST_WEEK_END", "FORECAST_WEEKEND", "FORECAST_HOMES", "FORECAST_QWERTZUIOP", "FORECAST_MAX_JOB"}
    assert named - known <= made_up, "a variable that no setting and no list knows"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('wek_ends = "SUN"\n', "unknown setting wek_ends in {path}; did you mean week_ends?"),
        ('FORECAST_WEEK_ENDS = "SUN"\n', "unknown setting FORECAST_WEEK_ENDS in {path}; did you mean week_ends?"),
        ("[settings]\nseed = 3\n", "unknown setting settings in {path}"),
        ('seed = "many"\n', "seed, set in {path}, is 'many': "),
        ('week_ends = "XYZ"\n', "use one of MON, TUE, WED, THU, FRI, SAT, SUN (set in {path})"),
        ('profile = "azure"\n', "profile, set in {path}, is 'azure': Input should be 'local' or 'aws'"),
        ("complete_share = 2\n", "complete_share, set in {path}, is 2: Input should be less than or equal to 1"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(home_folder, text, says):
    path = home_folder / "settings.toml"
    path.write_text(text)
    with pytest.raises(ValidationError) as error:
        Settings()
    assert says.format(path=path) in str(error.value)
    assert "Extra inputs" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"seed = 3\nweek_ends = SUN\n", "is no TOML: Invalid value (at line 2, column 13)"),
        (b"seed: 3\n", "is no TOML: Expected '=' after a key in a key/value pair (at line 1"),
        ("date_format = '%d' # für\n".encode("utf-16"), "is not in UTF-8"),
        (b'smtp_password = "hunter2"\n', "give it as FORECAST_SMTP_PASSWORD"),
        (b'kafka_password = "hunter2"\n', "give it as FORECAST_KAFKA_PASSWORD"),
        (b'kafka_conf = {"ssl.key.password" = "hunter2"}\n', "holds ssl.key.password; give it in FORECAST_KAFKA_CONF"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(home_folder, content, says):
    (home_folder / "settings.toml").write_bytes(content)
    with pytest.raises(SettingsError) as error:
        Settings()
    assert str(home_folder / "settings.toml") in str(error.value)
    assert says in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_file_saved_by_a_windows_editor_is_read(home_folder):
    (home_folder / "settings.toml").write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert Settings().seed == 3


def test_a_wrong_variable_is_named_as_one(monkeypatch):
    monkeypatch.setenv("FORECAST_COUNTRY", "Germany")
    with pytest.raises(ValidationError, match=r"set in the environment \(FORECAST_COUNTRY\), is 'Germany'.*ISO code"):
        Settings()
    with pytest.raises(ValidationError, match="country, set in an option or argument, is 'Spain'"):
        Settings(country="Spain")


# -------------------------------------------------------------------------------------------- who is told


def test_secrets_are_in_no_text(monkeypatch):
    monkeypatch.setenv("FORECAST_NOTIFY", "https://hooks.example.com/services/T0/hunter2,mailto:a@b.example")
    monkeypatch.setenv("FORECAST_SMTP_URL", "smtp://robot@mail.example:587")
    monkeypatch.setenv("FORECAST_SMTP_PASSWORD", "hunter2")
    monkeypatch.setenv("FORECAST_NOTIFY_SECRET", "hunter2")
    monkeypatch.setenv("FORECAST_KAFKA_PASSWORD", "hunter2")
    monkeypatch.setenv("FORECAST_KAFKA_CONF", '{"ssl.key.password": "hunter2", "client.id": "a"}')
    settings = Settings()
    assert settings.secrets[-2:] == ("hunter2", "hunter2")
    assert len(settings.notify) == 2
    assert "hunter2" not in f"{settings!r}{settings}{settings.model_dump()}"
    monkeypatch.setenv("FORECAST_NOTIFY", "hooks.example.com/hunter2")
    with pytest.raises(ValidationError, match="target 1 is neither") as error:
        Settings()
    assert "hunter2" not in str(error.value)


def test_targets_from_the_file(home_folder):
    (home_folder / "settings.toml").write_text('notify = ["https://a.example/x", "http://b.example"]\n')
    assert [t.get_secret_value() for t in Settings().notify] == ["https://a.example/x", "http://b.example"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"notify": "mailto:a@b.example"}, "needs smtp_url"),
        ({"notify": "slack"}, "target 1 is neither"),
        ({"smtp_url": "mail.example:587"}, "smtp_url is smtp://"),
        ({"smtp_url": "smtp://me:secret@mail.example"}, "the password goes into smtp_password"),
    ],
)
def test_who_is_told_is_checked(changes, says):
    with pytest.raises(ValidationError, match=says):
        Settings(**changes)


def test_addresses_of_databases_are_in_the_file_without_a_password_and_in_no_text(home_folder, monkeypatch):
    file = home_folder / "settings.toml"
    file.write_text('import_from = "postgresql://reader:hunter2@db/shop"\nimport_query = "SELECT 1"\n')
    with pytest.raises(SettingsError, match=r"import_from holds a password in .*FORECAST_IMPORT_FROM") as refused:
        Settings()
    assert "hunter2" not in str(refused.value)
    file.write_text('export_to = "postgresql://planner@db/shop"\n')
    monkeypatch.setenv("FORECAST_IMPORT_FROM", "postgresql://reader:hunter%402@db/shop")
    settings = Settings(import_query="SELECT 1", import_schedule="30 5 * * *")
    assert settings.export_to.get_secret_value() == "postgresql://planner@db/shop"
    assert "hunter" not in repr(settings)
    assert {"hunter%402", "hunter@2"} <= set(settings.secrets)  # so that they are kept out of logs and notices
    for wrong, said in (
        ({"import_schedule": "daily"}, "import_schedule"),
        ({"import_schedule": "30 5 * * *", "import_query": ""}, "needs import_from and import_query"),
        ({"export_to": "hunter2"}, "export_to is no address of a database"),
        ({"export_table": "a; DROP"}, "export_table"),
    ):
        with pytest.raises(ValidationError, match=said) as refused:
            Settings(**wrong)
        assert "hunter" not in str(refused.value)


def test_reading_the_settings_does_not_take_the_time_to_import_pandas():
    code = (
        "import sys; from forecast_platform.settings import get_settings as get; get(); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
