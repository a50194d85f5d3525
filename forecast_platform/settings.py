"""Settings: the one reader of environment variables.

Sources, strongest first: arguments, `FORECAST_*` environment variables, `$FORECAST_HOME/settings.toml`, defaults.
Whatever is no setting, or no value of one, is refused by its name and source: a setting that is ignored in silence is
found out by wrong numbers. Texts of errors hold no secrets.

`forecast import --preset walmart` writes the chosen preset to settings.toml so that the sensor reads later files
the same way.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import functools
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from forecast_platform.databases import has_password, is_address, passwords
from forecast_platform.history.covariates import AUTO, NONE, Declarations
from forecast_platform.landing.dialects import PRESETS, TOTALS, Dialect
from forecast_platform.landing.digest import reading_digest
from forecast_platform.landing.judgement import Limits
from forecast_platform.levels import LEVELS
from forecast_platform.weeks import EARLIEST, WeekCalendar

DEFAULT_HOME = ".forecast"

# Every field of a dialect but its name is a setting of the same name.
_DIALECT = [field.name for field in dataclasses.fields(Dialect) if field.name != "name"]

if TYPE_CHECKING:
    from tomlkit.items import Item

    from forecast_platform.history.reading import Meaning
    from forecast_platform.words import Words

PREFIX = "FORECAST_"
# Variables of ours that are no settings: where the settings lie, and what only tests and benchmarks read.
OTHER_VARIABLES = {
    "FORECAST_HOME": "the folder of all state",
    "FORECAST_WALMART_DIR": "benchmarks and tests: the folder of the Walmart files",
    "FORECAST_JUICE_DIR": "benchmarks: the folder of the orange juice files",
    "FORECAST_CHROMIUM": "tests: the browser",
    "FORECAST_LIVE_URL": "tests: a bucket of a live AWS account",
    "FORECAST_LIVE_WORKGROUP": "tests: an Athena workgroup of a live AWS account",
}
# Passwords and keys have no place in a file that is copied, mailed and committed.
ENVIRONMENT_ONLY = ("smtp_password", "notify_secret", "kafka_password")
ADDRESSES = ("import_from", "export_to")  # of databases: in that file without a password
HIDDEN = (*ENVIRONMENT_ONLY, *ADDRESSES, "notify", "kafka_conf")  # whose values no error shows
_SECRET = re.compile("password|secret")  # properties of librdkafka's that are such


def home() -> Path:
    """The one folder that holds all state: landing, lake, models, Dagster's own storage."""
    return Path(os.environ.get("FORECAST_HOME") or DEFAULT_HOME).expanduser().resolve()


class Settings(BaseSettings):
    """Everything an operator may set. Each field is `FORECAST_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    profile: Literal["local", "aws"] = Field("local", description="which twins of the resources to use")
    landing_url: str = Field("", description="folder or s3://bucket/prefix to watch; empty: $FORECAST_HOME/landing")

    # The business week
    week_ends: str = Field("", description="weekday a week ends on, MON .. SUN; empty: the preset's, else FRI")
    first_week: dt.date = Field(EARLIEST, description="no week before this one exists; earlier rows are refused")

    # Reading other people's files
    preset: str = Field("", description=f"named mapping of columns and formats: {', '.join(PRESETS)}; empty: canonical")
    columns: dict[str, str] = Field(
        default_factory=dict, description='canonical name -> name in the file, e.g. {"weekly_sales": "Umsatz"}'
    )
    date_format: str = Field(
        "", description='strptime format of dates; several separated by "|"; %G-W%V for ISO weeks; empty: the preset\'s'
    )
    week_label: Literal["", "end", "start"] = Field(
        "", description="a date names the end of its week (default) or start"
    )
    time_zone: str = Field("", description="of the shops, e.g. Europe/Berlin: gives moments with a zone their day")
    store: str = Field("", description="the one store of files that have no such column")
    department: str = Field("", description="the one department of files that have no such column")
    delimiter: str = Field(
        "", description="of text files, one character; empty: what sep= says, a tab in .tsv, a comma"
    )
    encoding: str = Field("", description="codec of text files, e.g. cp1252; empty: UTF-8, or UTF-16 by its mark")
    skip_rows: int = Field(0, ge=0, description="lines of titles before the header")
    sheet: str = Field("", description="of a workbook; empty: its only one")
    decimal: Literal["", ".", ","] = Field(
        "",
        description='decimal sign; where it is set, thousands are read too; empty: ".", and unclear files are refused',
    )
    thousands: str = Field("", description="signs between groups of three digits, instead of those decimal allows")
    currency: str = Field("", description='signs and codes allowed beside a number, separated by spaces: "€ EUR"')
    accounting: bool = Field(False, description="a minus may follow its number, and parentheses mean minus")
    missing: Annotated[dict[str, tuple[str, ...]], NoDecode] = Field(
        default_factory=dict,
        description='texts that mean no value: a list for every column, or column -> list; "" always does',
    )
    aggregate: Literal["", "refuse", "sum", "last"] = Field(
        "",
        description="rows of one store, department and week: sum (days become weeks), last, refuse; empty: few or none",
    )
    totals: Annotated[Literal["", "refuse", "leave_out", "keep"] | dict[str, tuple[str, ...]], NoDecode] = Field(
        "",
        description="rows that are sums: refuse (default), leave_out if named so, keep; names left out: "
        '{"store": ["North"]}',
    )
    normalise_keys: Annotated[tuple[Literal["numbers", "case"], ...], NoDecode] = Field(
        (), description="spellings of a store or department that are one: numbers (08, 8 and 8.0), case"
    )

    # When a file is refused as a whole
    most_refused: float = Field(0.5, ge=0, le=1, description="share of a file's rows that may be refused")
    most_duplicates: float = Field(0.05, ge=0, le=1, description="share of a file's rows that may be there twice")
    odd_factor: float = Field(
        4, gt=1, description="a store's sales this many times the usual, or that part, are warned of"
    )
    wrong_factor: float = Field(
        20, gt=1, description="a file's sales this many times the usual, or that part, are refused"
    )
    most_removed: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of a week's rows, or of a store's in it, beyond which a file that removes them waits",
    )

    # The week's completeness and the series that are forecast
    complete_share: float = Field(
        0.8, gt=0, le=1, description="a week is complete when this share of the recently active series reported"
    )
    active_weeks: int = Field(52, ge=1, description="a series with no sales for this many weeks counts as closed")
    no_row: Literal["auto", "unknown", "zero"] = Field(
        "auto",
        description="what a week without a row means where the store reported: zero sales, unknown; "
        "auto: by each series' habit",
    )
    history_weeks: int = Field(4, ge=1, description="a drop of more weeks than this is history: one forecast for all")

    # What is known beside sales
    covariates: dict[str, str] | Literal["auto", "none"] = Field(
        "auto",
        description='columns used: {"promo": "known:0", "rain": "past"}; auto: those planned, by their names; none',
    )
    exposure: str = Field(
        "auto", description="column of the days open, which sales are divided by; auto: open_days; none"
    )
    country: str = Field(
        "US", pattern="^[A-Za-z]{2}$", description="ISO code, for the holidays where no calendar has landed"
    )

    # The model
    context_length: int = Field(0, ge=0, description="weeks the network is conditioned on; 0: chosen with the target")
    prediction_length: int = Field(12, ge=1, description="weeks forecast ahead")
    quantiles: Annotated[tuple[float, ...], NoDecode] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), description="quantiles published, as columns p10, p50, ..."
    )
    levels: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="columns of stores/ and departments/ by which sales are forecast, too: region; of both: store.type",
    )
    num_samples: int = Field(100, ge=10, description="sample paths per series")
    seed: int = Field(0, ge=0, description="seed of training and sampling")
    retrain_every_weeks: int = Field(4, ge=1, description="weeks between trainings; between them the last model serves")
    hyperparameters: dict[str, str] = Field(
        default_factory=dict, description="DeepAR hyperparameters that override the shipped ones (all values strings)"
    )
    target: Literal[
        "auto",
        "sales",
        "reference",
        "ratio",
        "trees",
        "aligned_last_year",
        "pretrained",
        "last_year",
        "recent_level",
        "intermittent",
        "last_value",
    ] = Field(
        "auto",
        description="the candidate that forecasts, see docs/models.md; auto: of those able the best in backtests",
    )
    transform_shards: int = Field(
        1,
        ge=1,
        description="shards the series are forecast in; on SageMaker, a transform's files, at least one an instance",
    )
    model_name: str = Field("", description="pins the model of this version, instead of training; see the models table")

    # Runs
    max_run_hours: float = Field(12, gt=0, description="a run that Dagster's daemon sees going for longer is ended")
    memory_gb: float = Field(
        4,
        ge=1,
        description="memory a run may take, about; what does not fit is worked on in shards, or spilled to disk",
    )
    workers: int = Field(0, ge=0, description="processes that work on shards, where there are several; 0: one a core")
    training_series: int = Field(
        5_000, ge=100, description="series a model is chosen and trained on: of a larger retailer a stratified sample"
    )

    # Spark (engine spark): docs/spark.md
    spark_master: str = Field(
        "local[*]",
        description="cluster: spark://host:7077, yarn, k8s://...; local[*]: this machine; empty: as Spark is set up",
    )
    spark_archive: str = Field(
        "", description="address of what `make spark-archive` made; empty: workers have Python and the platform as here"
    )
    spark_conf: dict[str, str] = Field(
        default_factory=dict, description='properties of Spark\'s own: {"spark.executor.memory": "8g"}'
    )

    spark_application: str = Field(
        "", description="EMR Serverless application whose jobs forecast shards (profile aws); empty: spark_master does"
    )

    # Transactions from a stream (forecast stream): docs/streams.md
    kafka_servers: str = Field("", description="brokers to begin with: host:9092,host:9092")
    kafka_topic: str = Field("", description="topic of the transactions, JSON objects with the fields of a sales file")
    kafka_conf: dict[str, SecretStr] = Field(
        default_factory=dict, description='more properties of librdkafka\'s: {"security.protocol": "SASL_SSL"}'
    )
    kafka_password: SecretStr = Field(
        SecretStr(""), description="sasl.password, of kafka_conf's sasl.username; environment only"
    )
    stream_lateness_hours: float = Field(
        24, ge=0, description="hours from a week's end until it is landed; and between two restatements of it"
    )
    stream_keep_weeks: int = Field(
        8, ge=1, description="weeks after its end in which late messages restate a week; later ones are refused"
    )

    # Databases: docs/databases.md, docs/export.md
    import_from: SecretStr = Field(
        SecretStr(""), description="database that sales come from: postgresql://user@host/name; password: PGPASSWORD"
    )
    import_query: str = Field(
        "", description="SELECT that gives the rows of sales; a name.sql in the home: what it holds"
    )
    import_name: str = Field("", description="what its landed files are called; empty: as the database")
    import_weeks: int = Field(8, ge=1, description="known weeks that are asked for again each time, for restated sales")
    import_timeout: int = Field(600, ge=1, description="seconds after which the query is stopped")
    import_schedule: str = Field(
        "",
        pattern=r"^(\S+( \S+){4})?$",
        description='when Dagster asks the database, as cron: "30 5 * * *"; empty: never',
    )
    export_to: SecretStr = Field(
        SecretStr(""), description="database that each week's forecast is written to, as import_from; empty: none"
    )
    export_table: str = Field("forecasts", pattern=r"^\w+(\.\w+)?$", description="table there, or SCHEMA.TABLE")

    # What people see: docs/language.md
    locale: str = Field(
        "en", description="of pages, reports and notices: de, de_DE, ko_KR, en_GB ...; en alone: ISO dates, no country"
    )
    money: str = Field(
        "", description="currency of sales, as ISO 4217 code: EUR, KRW; empty: they are shown without a sign"
    )
    dashboard_url: str = Field("http://127.0.0.1:8050", description="where assets' pages say that the dashboard is")
    notify: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="who is told of failures, late weeks, refusals and reports: mailto:, Slack or webhook addresses"
    )
    notify_secret: SecretStr = Field(
        SecretStr(""), description="signs what is sent to webhooks (HMAC-SHA256); environment only"
    )
    smtp_url: str = Field("", description="mail server: smtp://user@host:587 (STARTTLS) or smtps://user@host:465")
    smtp_password: SecretStr = Field(SecretStr(""), description="password of smtp_url's user; environment only")
    smtp_from: str = Field("", description="sender of the mails; empty: smtp_url's user, else the receiver")

    # The lake
    keep_states_days: int = Field(30, ge=1, description="days for which replaced states of a table can be asked for")

    # AWS (profile aws). Credentials, region and endpoints: AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL, see clients.py.
    storage_url: str = Field("", description="s3://bucket/prefix under which lake, models and job files live")
    database: str = Field("forecast", pattern="^[a-z0-9_]+$", description="Glue database of the tables")
    workgroup: str = Field("forecast", description="Athena workgroup of queries")
    queue_url: str = Field("", description="SQS queue of the landing bucket's events; empty: listing alone")
    engine: Literal["", "local", "spark", "sagemaker-builtin", "sagemaker-container"] = Field(
        "",
        description="where the work runs: here, on Spark, in Amazon's image, or ours; "
        "empty: local, on profile aws sagemaker-container",
    )
    role_arn: str = Field("", description="role that SageMaker jobs, or those of EMR Serverless, run as")
    image: str = Field("", description="ECR address of our DeepAR image, for sagemaker-container")
    kms_key: str = Field(
        "",
        pattern="^$|^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/.+$",
        description="ARN of the KMS key of SageMaker jobs' disks and outputs; empty: AWS's own; infra's KmsKeyArn",
    )
    vpc_subnets: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="subnets that SageMaker jobs run in, with vpc_security_groups; empty: outside any VPC of yours"
    )
    vpc_security_groups: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="security groups of SageMaker jobs in vpc_subnets"
    )
    train_instance: str = Field("ml.c5.2xlarge", pattern="^ml[.]", description="instance type of a training job")
    train_instances: int = Field(
        1,
        ge=1,
        le=100,
        description="instances of a training of Amazon's DeepAR, each of which reads its part of the series",
    )
    transform_instance: str = Field("ml.c5.2xlarge", pattern="^ml[.]", description="instance type of a batch transform")
    transform_instances: int = Field(1, ge=1, le=100, description="instances of a batch transform")
    job_prefix: str = Field(
        "forecast", pattern="^[a-z][a-z0-9-]{1,20}$", description="begins the names of SageMaker jobs: infra's Name"
    )
    spot: bool = Field(False, description="train on spot instances")
    max_job_minutes: int = Field(
        60, ge=1, description="a job of SageMaker or EMR Serverless is stopped after this long"
    )
    max_job_usd: float = Field(10, gt=0, description="a job that could cost more by its time limit is refused")
    max_month_usd: float = Field(200, gt=0, description="a job is refused when the calendar month could exceed this")
    prices: dict[str, float] = Field(
        default_factory=dict, description="USD per instance hour, over the shipped table (us-east-1, on demand)"
    )

    _home: Path = PrivateAttr(default_factory=home)

    def __init__(self, **values: Any) -> None:
        """Read the settings.

        Raises:
            ValidationError: a setting is unknown or wrong; each error says where it is set and what it may be.
            SettingsError: a variable that is no setting, or a file that is no TOML.
        """
        _refuse_unknown_variables(type(self).model_fields)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error, values, type(self).model_fields) from None
        except SettingsError as error:
            raise _explained_json(error) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SettingsFile(settings_cls, home() / "settings.toml")

    @field_validator("notify", mode="before")
    @classmethod
    def _split_targets(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.strip().removeprefix("[").removesuffix("]").split(",")]
            value = [part.strip("\"'") for part in value if part]
        return value

    @field_validator("quantiles", mode="before")
    @classmethod
    def _split_quantiles(cls, value: Any) -> Any:
        return tuple(float(v) for v in value.split(",")) if isinstance(value, str) else value

    @field_validator("normalise_keys", "vpc_subnets", "vpc_security_groups", mode="before")
    @classmethod
    def _split_words(cls, value: Any) -> Any:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("levels", mode="before")
    @classmethod
    def _split_levels(cls, value: Any) -> Any:
        value = value.split(",") if isinstance(value, str) else value
        return tuple(str(name).strip().lower() for name in value if str(name).strip())  # as columns are named

    @field_validator("missing", mode="before")
    @classmethod
    def _markers_by_column(cls, value: Any) -> Any:
        """A list counts for every column; in the environment also one separated by commas."""
        if isinstance(value, str):
            value = json.loads(value) if value.lstrip().startswith(("[", "{")) else value.split(",")
        if isinstance(value, list | tuple):
            value = {"": [str(marker).strip() for marker in value]}
        return value

    @field_validator("totals", mode="before")
    @classmethod
    def _a_word_or_names(cls, value: Any) -> Any:
        """Names of stores may be numbers, and need no quotes then."""
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            value = json.loads(value)
        if isinstance(value, Mapping):
            return {c: tuple(map(str, n if isinstance(n, list | tuple) else [n])) for c, n in value.items()}
        if not isinstance(value, str) or value not in ("", *TOTALS):
            raise ValueError(
                f"{value!r} is none of {', '.join(TOTALS)}, nor names of sums by column, such as "
                '{"store": ["North", "South"]}'
            )
        return value

    @field_validator("covariates", mode="before")
    @classmethod
    def _a_word_or_a_table(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in (AUTO, NONE):
            raise ValueError(f'{value!r} is neither {AUTO} nor {NONE}, nor a table such as {{"promo": "known:0"}}')
        return value

    @model_validator(mode="after")
    def _check(self) -> Settings:
        qs = self.quantiles
        if list(qs) != sorted(set(qs)) or not all(0 < q < 1 for q in qs) or 0.5 not in qs:
            raise ValueError(f"quantiles must ascend between 0 and 1 and hold 0.5; got {qs}")
        if any(round(q * 100, 6) % 1 for q in qs):
            raise ValueError(f"quantiles are published as columns p1 .. p99: whole percents only; got {qs}")
        if taken := [level.name for level in LEVELS if level.name in self.levels]:
            raise ValueError(
                f"levels has {taken[0]}, which is a level already; a column of that name is store.{taken[0]} or "
                f"dept.{taken[0]}"
            )
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels has a name twice: {', '.join(self.levels)}")
        if self.profile == "aws":
            self._check_aws()
        elif self.engine_name.startswith("sagemaker"):
            raise ValueError(f"engine {self.engine} needs profile aws; set FORECAST_PROFILE=aws")
        if self.spark_application and (self.profile, self.engine) != ("aws", "spark"):
            raise ValueError("spark_application needs profile aws and engine spark")
        if self.queue_url and not self.landing.startswith("s3://"):
            raise ValueError(f"queue_url tells of files in S3, and landing_url is the folder {self.landing}; unset one")
        self._check_notify()
        self._check_databases()
        if find_spec("babel"):  # which a Lambda, that nobody looks at, does without
            _ = self.words
        _ = self.contract, self.calendar, self.declarations  # they validate themselves
        return self

    def _check_databases(self) -> None:
        for name in ADDRESSES:
            if (url := getattr(self, name).get_secret_value()) and not is_address(url):
                raise ValueError(f"{name} is no address of a database, such as postgresql://user@host:5432/shop")
        if self.import_schedule and not (self.import_from.get_secret_value() and self.import_query):
            raise ValueError("import_schedule needs import_from and import_query")

    def _check_notify(self) -> None:
        for number, target in enumerate(self.notify, 1):
            if not re.match(r"mailto:[^@\s]+@[^@\s]+$|(slack\+)?https?://[^/\s]+", target.get_secret_value()):
                raise ValueError(f"notify: target {number} is neither mailto:name@host nor an http(s):// address")
            if target.get_secret_value().startswith("mailto:") and not self.smtp_url:
                raise ValueError("notify sends mail and needs smtp_url, such as smtp://user@host:587")
        if self.smtp_url and not re.match(r"smtps?://([^:@/\s]+@)?[^:@/\s]+(:\d+)?/?$", self.smtp_url):
            raise ValueError("smtp_url is smtp://user@host:port or smtps://...; the password goes into smtp_password")

    def _check_aws(self) -> None:
        needed = {"storage_url": self.storage_url, "landing_url": self.landing_url}
        if self.engine_name.startswith("sagemaker"):
            needed["role_arn"] = self.role_arn
        if self.engine_name == "sagemaker-container":
            needed["image"] = self.image
        if self.engine_name == "spark" and self.spark_application:
            needed |= {"role_arn": self.role_arn, "spark_archive": self.spark_archive}
        missing = [f"FORECAST_{name.upper()}" for name, value in needed.items() if not value]
        if missing:
            raise ValueError(f"profile aws needs {', '.join(missing)}; the outputs of infra/ name them")
        if bool(self.vpc_subnets) != bool(self.vpc_security_groups):
            raise ValueError("vpc_subnets and vpc_security_groups go together; set both, or neither")
        for name in ("storage_url", "landing_url"):
            if not getattr(self, name).startswith("s3://"):
                raise ValueError(f"on profile aws {name} is s3://bucket/prefix; got {getattr(self, name)!r}")

    @property
    def engine_name(self) -> str:
        """Where DeepAR runs: local, spark, sagemaker-builtin or sagemaker-container."""
        return self.engine or ("sagemaker-container" if self.profile == "aws" else "local")

    @property
    def home(self) -> Path:
        return self._home

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be in a text that people or logs get."""
        fields = (*self.notify, self.notify_secret, self.smtp_password, self.kafka_password)
        of_kafka = (value for name, value in self.kafka_conf.items() if _SECRET.search(name))
        addresses = (getattr(self, name).get_secret_value() for name in ADDRESSES)
        secrets = (s.get_secret_value() for s in (*fields, *of_kafka))
        return (*secrets, *(p for url in addresses for p in passwords(url)))

    @property
    def landing(self) -> str:
        return self.landing_url or str(self.home / "landing")

    @property
    def warehouse(self) -> Path:
        """Folder of the Iceberg tables and their catalog."""
        return self.home / "lake"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def transforms(self) -> Path:
        """Inputs, manifests and outputs of batch predictions."""
        return self.home / "transforms"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @functools.cached_property
    def contract(self) -> Dialect:
        """How sales files are read: the preset with this installation's own changes."""
        return Dialect.named(self.preset or "canonical").replace(
            **{name: getattr(self, name) for name in _DIALECT if getattr(self, name)}
        )

    @property
    def limits(self) -> Limits:
        """From where on a file is refused as a whole."""
        return Limits(self.most_refused, self.most_duplicates, self.odd_factor, self.wrong_factor, self.most_removed)

    @functools.cached_property
    def calendar(self) -> WeekCalendar:
        return WeekCalendar(ends=self.contract.week_ends, first_week=self.first_week)

    @functools.cached_property
    def reading(self) -> str:
        """Digest of what decides how files are read: what was not taken whole is read again when it changes."""
        return reading_digest(self.contract, self.calendar, self.limits)

    @functools.cached_property
    def declarations(self) -> Declarations:
        """Which feature columns are used, and as what."""
        return Declarations.of(self.covariates, self.exposure)

    @property
    def words(self) -> Words:
        """How figures, dates and texts are written for people."""
        from forecast_platform.words import known

        return known(self.locale, self.money)

    @property
    def meaning(self) -> Meaning:
        """What rows mean beside what they say."""
        from forecast_platform.history.reading import Meaning

        return Meaning(self.declarations, self.country, self.no_row, self.active_weeks)

    @property
    def quantile_columns(self) -> tuple[str, ...]:
        return tuple(f"p{round(q * 100)}" for q in self.quantiles)


class _SettingsFile(TomlConfigSettingsSource):
    """$FORECAST_HOME/settings.toml. What is wrong with it is said by its path and line."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            # A byte order mark is what Windows' editors put first.
            found = tomllib.loads(file_path.read_text("utf-8-sig"))
        except UnicodeDecodeError:
            raise SettingsError(f"{file_path} is not in UTF-8; save it again as UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(
                f'{file_path} is no TOML: {error}. A setting is a line such as week_ends = "SUN"; texts have quotes, '
                "numbers have none"
            ) from None
        conf = found.get("kafka_conf")
        if isinstance(conf, dict) and (names := [name for name in conf if _SECRET.search(name)]):
            raise SettingsError(f"kafka_conf in {file_path} holds {names[0]}; give it in {PREFIX}KAFKA_CONF instead")
        if secret := [name for name in ENVIRONMENT_ONLY if name in found]:
            raise SettingsError(f"{secret[0]} stands in {file_path}; give it as {PREFIX}{secret[0].upper()} instead")
        if secret := [name for name in ADDRESSES if has_password(str(found.get(name, "")))]:
            raise SettingsError(
                f"{secret[0]} holds a password in {file_path}; leave it out there: give it as PGPASSWORD, or the "
                f"address as {PREFIX}{secret[0].upper()}"
            )
        return found


def written(changes: Mapping[str, Any], comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """Settings as lines of settings.toml."""
    return "".join(
        f"{name} = {_toml(value).as_string()}" + (f"  # {comments[name]}" if name in comments else "") + "\n"
        for name, value in changes.items()
    )


def write(changes: Mapping[str, Any], comment: str = "") -> Path:
    """Set settings in $FORECAST_HOME/settings.toml, where everything else stays as it is.

    Args:
        changes: name -> value.
        comment: stands above what is new.

    Returns:
        The file.

    Raises:
        SettingsError: the environment says one of them, and would win.
    """
    if said := [name for name in changes if f"{PREFIX}{name}".upper() in map(str.upper, os.environ)]:
        raise SettingsError(f"{PREFIX}{said[0].upper()} is set in the environment, which wins; unset it, or change it")
    import tomlkit  # which a Lambda, that writes no settings, does without

    path = home() / "settings.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Line ends and a byte order mark stay as they are.
    before = path.read_bytes().decode() if path.exists() else ""
    mark = "\ufeff" if before.startswith("\ufeff") else ""
    document = tomlkit.parse(before.removeprefix(mark))
    new = [name for name in changes if name not in document]
    for name in [name for name in changes if name in document] + new:
        if comment and new and name == new[0]:
            document.add(tomlkit.comment(comment))
        kept = document.get(name)
        if isinstance(kept, MutableMapping) and isinstance(changes[name], Mapping):
            kept.update({key: _toml(value) for key, value in changes[name].items()})
            for key in [key for key in kept if key not in changes[name]]:
                del kept[key]
        else:
            document[name] = _toml(changes[name])
    draft = path.with_suffix(".toml.new")
    draft.write_bytes((mark + tomlkit.dumps(document)).encode())
    draft.replace(path)
    get_settings.cache_clear()
    return path


def _toml(value: Any) -> Item:
    """A value on one line."""
    import tomlkit

    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update({key: _toml(each) for key, each in value.items()})
        return table
    item: Item = tomlkit.item(list(value) if isinstance(value, tuple) else value)
    return item


def _near(name: str, names: Iterable[str]) -> str:
    """A question to end a message with: did you mean the name that looks most like it? Empty when none does."""
    bare = {known.upper().removeprefix(PREFIX): known for known in names}
    found = difflib.get_close_matches(name.upper().removeprefix(PREFIX), bare, n=1, cutoff=0.6)
    return f"; did you mean {bare[found[0]]}?" if found else ""


def _refuse_unknown_variables(fields: Iterable[str]) -> None:
    known = [*(f"{PREFIX}{name.upper()}" for name in fields), *OTHER_VARIABLES]
    given = [name for name in os.environ if name.upper().startswith(PREFIX)]
    lines = [
        f"unknown setting {name} in the environment{_near(name, known)}"
        for name in sorted(given)
        if name.upper() not in known
    ]
    if lines:
        raise SettingsError("\n".join(lines) + ". Correct the name, or unset the variable")


def _explained(error: ValidationError, values: Mapping[str, Any], fields: Mapping[str, Any]) -> ValidationError:
    """The same error in words for people: where the setting is set, its value, and what it may be."""
    lines: list[InitErrorDetails] = []
    for found in error.errors(include_url=False):
        name = str(found["loc"][0]) if found["loc"] else ""
        reason = str(found["msg"]).removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            text = f"unknown setting {name} in {_source(name, values)}"
            text += _near(name, fields)
        elif name:
            shown = "" if name in HIDDEN else f" is {found['input']!r}: {reason}"
            text = f"{name}, set in {_source(name, values)}," + (shown or f" is wrong: {reason}")
            text += f" ({fields[name].description})" if name in fields else ""
        else:
            # Of several settings together: say where those it names are set.
            named = [n for n in fields if re.search(rf"\b{n}\b", reason) and _source(n, values)]
            places = sorted({_source(n, values) for n in named})
            text = f"{reason} (set in {', '.join(places)})" if places else reason
        kind = PydanticCustomError("setting", "{text}", {"text": text})
        lines.append(InitErrorDetails(type=kind, loc=found["loc"], input=None))
    return ValidationError.from_exception_data("Settings", lines, hide_input=True)


def _source(name: str, values: Mapping[str, Any]) -> str:
    """Where a setting got its value; empty where it has its default."""
    if name in values:
        return "an option or argument"
    variable = f"{PREFIX}{name.upper()}"
    if any(given.upper() == variable for given in os.environ):
        return f"the environment ({variable})"
    path = home() / "settings.toml"
    return str(path) if path.exists() and name in tomllib.loads(path.read_text("utf-8-sig")) else ""


def _explained_json(error: SettingsError) -> SettingsError:
    """pydantic's "error parsing value for field" with the variable, and what it should look like."""
    found = re.match(r'error parsing value for field "(\w+)"', str(error))
    if not found:
        return error
    variable = f"{PREFIX}{found[1].upper()}"
    return SettingsError(f'{variable} ({found[1]}) is no JSON; write it like {variable}=\'{{"name": "value"}}\'')


@functools.cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
