"""Shared by all tests: a small retailer, an isolated FORECAST_HOME, and the asset graph over it.

| fixture | what it gives |
|---|---|
| `retailer` | 3 stores x 4 departments, 57 Friday weeks up to 2025-01-31, 490 observations |
| `home` | an empty FORECAST_HOME of this test's own, also in the environment for child processes |
| `lake` | the Iceberg lake of that home |
| `graph` | the assets, checks and jobs over such a home (forecast_platform_tests/defs/graph.py) |
| `tables_home` | gives a home that has every table, empty, wherever a test wants it: `tables_home(folder)` |
| `with_history` | the same, with all but the retailer's last three weeks landed, ingested and cleaned |
| `far_from_utc` | this process's own time zone is Tokyo's, then New York's: no date may come from it |
| `s3` | a client of an S3 server on loopback (moto), emptied, with a bucket named `drop` |
| `database` | a new, empty database on a PostgreSQL of the tests' own; its password is in PGPASSWORD |
| `history_home` | gives `with_history` as often as wanted within one test: `history_home.restore()` |
| `first_forecast_home` | the same after the first weekly run, of the newest week of that history |
| `with_forecast` | the graph over a copy of that |
| `forecast_home` | the same after two weekly runs, the second after the week `forecast_home.week` had sold |

A home that takes long to make is made once, by the first of the processes that asks, and copied by who writes into it:
`made_once`.

What the environment of whoever runs the tests says about FORECAST_* settings is taken away first: the partitions are
built from the settings when `forecast_platform.definitions` is imported, so within a process they stay the default
ones. Tests of other calendars start a process of their own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from forecast_platform.demo import MadeUpRetailer, history_files, make_retailer, week_file
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.tables import PROVENANCE
from forecast_platform.settings import Settings, get_settings
from forecast_platform_tests import quickly
from forecast_platform_tests.postgres import Postgres, lacking, serving
from forecast_platform_tests.pulse import Pulse

if TYPE_CHECKING:
    from forecast_platform_tests.defs.graph import Graph

for _field in Settings.model_fields:
    os.environ.pop(f"FORECAST_{_field.upper()}", None)
# No settings.toml lies there. Nothing is written either: each test that writes has a home of its own.
os.environ["FORECAST_HOME"] = str(Path(tempfile.gettempdir()) / "forecast-tests-have-no-home")
# Before torch is imported; the tests run several processes on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_ENDED_BY = signal.getsignal(signal.SIGTERM)
# Every process would compile every module.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The smallest settings the whole graph runs with: a weekly run takes about two seconds.
SMALL: dict[str, Any] = {
    "context_length": 4,
    "prediction_length": 4,
    "num_samples": 20,
    "quantiles": (0.1, 0.5, 0.9),
    "hyperparameters": {"epochs": "1", "num_cells": "8", "num_networks": "1"},
    "target": "sales",  # else what learns nothing would win, and no network would be served
}
QUANTILES = ("p10", "p50", "p90")


# Those that take longest. xdist gives each process an equal share of the tests, one after the other, and who is done
# takes from the end of what another still has: they begin the shares, and what is left at the end is short.
LONG = (
    "clouds/aws/test_end_to_end.py", "serverless/test_pipeline.py", "infra/test_host.py", "defs/test_graph.py",
    "defs/test_kill.py", "test_cli_guide.py", "test_docs_blocks.py", "streaming/test_kills.py", "infra/test_deploy.py",
    "engines/test_in_shards.py", "test_serving.py", "infra/test_roles.py", "benchmarks/test_scale.py", "test_cli.py",
    "test_demo.py", "lake/test_maintenance.py", "test_cli_landing.py", "serverless/test_package.py",
    "defs/test_landing_sensor.py", "clouds/aws/test_glue.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Pulse(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = {here / name: number for number, name in enumerate(LONG)}
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares: list[list[pytest.Item]] = [[] for _ in range(count)]
    for item in sorted((i for i in items if i.path in places), key=lambda i: places[i.path]):
        shares[places[item.path] % count].append(item)
    short = iter([item for item in items if item.path not in places])
    left = len(items)
    for number, share in enumerate(shares):
        size = left // (count - number)
        left -= size
        share.extend(itertools.islice(short, max(0, size - len(share))))
    items[:] = [*itertools.chain(*shares), *short]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Opening a home says so in the environment, for child processes, settings that were read are kept, and Dagster
    gives SIGTERM the handler of SIGINT, which may be ignored. The next test is to see none of it."""
    before = dict(os.environ)
    signal.signal(signal.SIGTERM, _ENDED_BY)  # fixtures of whole files have run by now
    yield
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


@pytest.fixture(scope="module", params=["Asia/Tokyo", "America/New_York"])
def far_from_utc(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    assert time.timezone, f"this machine does not know {request.param}"
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.fixture(scope="session")
def retailer() -> MadeUpRetailer:
    return make_retailer(stores=3, depts=4, first=dt.date(2024, 1, 5), last=dt.date(2025, 1, 31))


def weeks_of(retailer: MadeUpRetailer) -> list[dt.date]:
    return retailer.weeks.astype(dt.date).tolist()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("FORECAST_HOME", str(path))
    return path


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake.local(home / "lake", QUANTILES)


@pytest.fixture(scope="session")
def tables_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """To make the tables takes half a second, longer than most of what small tests do with them."""
    made = made_once(tmp_path_factory, "tables", lambda folder: snapshots(Lake.local(folder / "lake", QUANTILES)))
    return lambda folder: Path(shutil.copytree(made, folder, dirs_exist_ok=True))


@pytest.fixture
def graph(home: Path, tables_home: Callable[[Path], Path]) -> Graph:
    from forecast_platform_tests.defs.graph import Graph

    tables_home(home)
    return Graph(Settings(**SMALL))


@pytest.fixture(scope="session", autouse=True)
def libraries_do_once_what_they_do_again_and_again() -> None:
    quickly.apply()


@pytest.fixture(scope="session", autouse=True)
def dagster_in_memory_is_made_and_asked_quickly() -> Iterator[None]:
    """It reads all migrations there ever were to make an instance, a tenth of a second, and connects anew for whatever
    it is asked, a thousand times a weekly run."""
    from dagster._core.storage.event_log import in_memory as events
    from dagster._core.storage.runs import in_memory as runs

    def keep(patch: pytest.MonkeyPatch, storage: Any, method: str, lock: Callable[[Any], Any]) -> None:
        """Ask by the connection that it holds anyway, in the thread that made it."""
        make, connect = storage.__init__, getattr(storage, method)

        def made(self: Any, *args: Any, **kwargs: Any) -> None:
            make(self, *args, **kwargs)
            self._made_in = threading.get_ident()

        @contextlib.contextmanager
        def connected(self: Any) -> Iterator[Any]:
            if self._made_in == threading.get_ident() and not self._held_conn.in_transaction():
                with lock(self), self._held_conn.begin():
                    yield self._held_conn
            else:
                with connect(self) as other:
                    yield other

        patch.setattr(storage, "__init__", made)
        patch.setattr(storage, method, connected)

    with pytest.MonkeyPatch.context() as patch:
        for module in (events, runs):
            patch.setattr(module, "stamp_alembic_rev", lambda *_: None)
        keep(patch, events.InMemoryEventLogStorage, "_connect", lambda storage: storage._db_lock)
        keep(patch, runs.InMemoryRunStorage, "connect", lambda _: contextlib.nullcontext())
        yield


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    import moto.backends
    from moto.server import ThreadedMotoServer

    # A third of what a request costs: a line in the log, and a look at every folder of moto to find its service.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    services = tuple(moto.backends.list_of_moto_modules())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto.backends, "list_of_moto_modules", lambda: services)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@functools.cache
def _s3_client(endpoint: str) -> Any:
    """One for all tests: to make one takes longer than most of what it is asked."""
    import boto3

    return boto3.Session().client("s3")


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the emulator, reset, with a bucket named "drop"."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    client = _s3_client(endpoint)
    client.create_bucket(Bucket="drop")
    return client


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if why := lacking():
        pytest.skip(why)
    with serving() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return postgres.database("shop")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all the processes of this test run share, made by the first that asks. Who writes makes a copy."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            making = folder.with_name(f"{name}.{os.getpid()}")
            making.mkdir()
            make(making)
            making.rename(folder)  # a home works wherever it lies
    return folder


class HistoryHome:
    """A home after its history was brought in, to be had again and again: each time a copy, at another place."""

    def __init__(self, home: Path, factory: pytest.TempPathFactory) -> None:
        self.home, self._factory = home, factory

    def copy(self) -> Path:
        return Path(shutil.copytree(self.home, self._factory.mktemp("copy") / "home"))

    def restore(self) -> Graph:
        return open_graph(self.copy())


def open_graph(home: Path) -> Graph:
    from forecast_platform_tests.defs.graph import Graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECAST_HOME", str(home))
        return Graph(Settings(**SMALL))


@pytest.fixture(scope="session")
def history_home(tmp_path_factory: pytest.TempPathFactory, retailer: MadeUpRetailer) -> HistoryHome:
    def make(folder: Path) -> None:
        graph, weeks = open_graph(folder / "home"), weeks_of(retailer)[:-3]
        # As if written the day after its last week, so that forecasts as_known_then of that week see all of it.
        graph.land(history_files(retailer, weeks[-1], dirty_rows=0), at=landing_day(weeks[-1]))
        assert graph.history(weeks[0], weeks[-1]).success
        for name in graph.lake.specs:
            graph.lake.table(name)  # so that no copy has to make it

    return HistoryHome(made_once(tmp_path_factory, "history", make) / "home", tmp_path_factory)


@pytest.fixture(scope="session")
def first_forecast_home(
    history_home: HistoryHome, tmp_path_factory: pytest.TempPathFactory, retailer: MadeUpRetailer
) -> HistoryHome:
    def make(folder: Path) -> None:
        graph = open_graph(Path(shutil.copytree(history_home.home, folder / "home")))
        result = graph.week(weeks_of(retailer)[-4], drawn=True)
        assert result.success, result.failures

    return HistoryHome(made_once(tmp_path_factory, "first", make) / "home", tmp_path_factory)


class ForecastHome(HistoryHome):
    """A home with forecasts after two weeks, the later one `week`, whose sales the earlier one forecast."""

    def __init__(self, home: Path, factory: pytest.TempPathFactory, week: dt.date) -> None:
        super().__init__(home, factory)
        self.week = week


@pytest.fixture(scope="session")
def forecast_home(
    first_forecast_home: HistoryHome, tmp_path_factory: pytest.TempPathFactory, retailer: MadeUpRetailer
) -> ForecastHome:
    week = weeks_of(retailer)[-3]

    def make(folder: Path) -> None:
        graph = open_graph(Path(shutil.copytree(first_forecast_home.home, folder / "home")))
        graph.land(dict([week_file(retailer, week)]), at=landing_day(week))
        assert graph.week(week).success

    return ForecastHome(made_once(tmp_path_factory, "forecast", make) / "home", tmp_path_factory, week)


@pytest.fixture
def with_history(history_home: HistoryHome, monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph = history_home.restore()
    monkeypatch.setenv("FORECAST_HOME", str(graph.platform.settings.home))
    return graph


@pytest.fixture
def with_forecast(first_forecast_home: HistoryHome, monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph = first_forecast_home.restore()
    monkeypatch.setenv("FORECAST_HOME", str(graph.platform.settings.home))
    return graph


def landing_day(week: dt.date) -> dt.datetime:
    """The morning after a week, when its file usually lands."""
    return dt.datetime.combine(week + dt.timedelta(days=1), dt.time(6), dt.UTC)


def contents(lake: Lake, ignoring: tuple[str, ...] = PROVENANCE) -> dict[str, list[dict[str, Any]]]:
    """Every table's rows in key order, without the columns that differ from run to run."""
    return {
        name: lake.read(name, columns=[c for c in spec.schema.names if c not in ignoring]).to_pylist()
        for name, spec in lake.specs.items()
    }


def snapshots(lake: Lake) -> dict[str, int | None]:
    """Every table's state, to see that nothing was committed."""
    return {name: lake.snapshot(name) for name in lake.specs}
