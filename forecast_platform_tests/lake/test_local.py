"""A home on disk can be moved and copied, and no copy ever touches another home, whatever its metadata says."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.lake.files import Inside, OutsideHome
from forecast_platform.lake.guard import hold, hold_alone
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.maintenance import maintain
from forecast_platform.lake.tables import LakeError
from forecast_platform_tests.lake.conftest import QUANTILES, content, forecast_rows, one_week, tree, week

TABLE, DAY = "cleaned_series", dt.timedelta(days=1)


def opened(home: Path) -> Lake:
    return Lake.local(home / "lake", QUANTILES)


@pytest.fixture
def original(tmp_path) -> Path:
    """A home of a few commits; a quote and blanks in its path."""
    home = tmp_path / "it's home"
    lake = opened(home)
    for value in (1.0, 2.0):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), value))
    lake.catalog.close()
    return home


def copied(home: Path, name: str = "copy") -> Path:
    return Path(shutil.copytree(home, home.with_name(name), symlinks=True))


def test_a_copy_is_independent_of_its_original(original):
    copy, before = copied(original), tree(original)
    lake = opened(copy)
    assert content(lake.read(TABLE)) == content(opened(original).read(TABLE))
    for value in range(12):  # enough commits for the metadata of the first ones to be deleted
        lake.replace_weeks(TABLE, [week(1)], one_week(week(1), float(value)))
    lake.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 1.0))
    maintain(lake, keep=DAY, now=dt.datetime.now(dt.UTC) + 30 * DAY)
    assert tree(original) == before
    # And the other way about.
    after = tree(copy)
    opened(original).replace_weeks(TABLE, [week(2)], one_week(week(2), 7.0))
    assert tree(copy) == after
    assert {w for w, _, _ in content(opened(copy).read(TABLE))} == {week(0), week(1)}
    assert {w for w, _, _ in content(opened(original).read(TABLE))} == {week(0), week(2)}


def test_a_moved_home_goes_on_and_reads_nothing_of_where_it_was(original):
    expected = content(opened(original).read(TABLE))
    moved = original.rename(original.with_name("moved"))
    lake = opened(moved)
    assert content(lake.read(TABLE)) == expected
    assert lake.query(f"SELECT sum(sales) AS s FROM {TABLE}").to_pylist() == [{"s": 10.0}]
    assert lake.replace_weeks(TABLE, [week(1)], one_week(week(1), 3.0))
    assert lake.query(f"SELECT sum(sales) AS s FROM {TABLE}").to_pylist() == [{"s": 25.0}]
    assert not original.exists(), "nothing is written where it was"


def test_a_copy_of_a_copy_of_a_moved_home(original):
    second = copied(original.rename(original.with_name("moved")), "second")
    opened(second).replace_weeks(TABLE, [week(1)], one_week(week(1), 3.0))
    third = copied(second, "third")
    shutil.rmtree(second)
    assert {w for w, _, _ in content(opened(third).read(TABLE))} == {week(0), week(1)}


def test_a_copy_that_lacks_files_is_refused_although_the_original_has_them(original):
    """What the edition before this one made of a copy: its catalog named states it had written into the original."""
    copy = copied(original)
    opened(copy).replace_weeks(TABLE, [week(1)], one_week(week(1), 3.0))
    latest = opened(copy).table(TABLE).metadata_location.rpartition("/")[2]
    here = copy / "lake" / "forecast" / TABLE / "metadata" / latest
    shutil.move(here, original / "lake" / "forecast" / TABLE / "metadata" / latest)
    with pytest.raises(LakeError, match=r"copy/lake is no whole copy of a home: .*cleaned_series.*forecast backup"):
        opened(copy).read(TABLE)


@pytest.mark.parametrize("part", ["lake", "lake/forecast", "lake/catalog.db"])
def test_a_copy_by_links_is_refused(original, part):
    """cp -rs, or a part of the home that is a link: a copy would write into what it points to."""
    copy = copied(original)
    target = copy / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(original / part)
    before = tree(original)
    with pytest.raises(LakeError, match="is a link to"):
        opened(copy).read(TABLE)
    assert tree(original) == before


def test_a_copy_by_hard_links_is_refused(original):
    copy = copied(original)
    (copy / "lake" / "catalog.db").unlink()
    os.link(original / "lake" / "catalog.db", copy / "lake" / "catalog.db")
    for home in (original, copy):
        with pytest.raises(LakeError, match="hard links"):
            opened(home).read(TABLE)


@pytest.mark.parametrize("part", [f"forecast/{TABLE}", f"forecast/{TABLE}/data", f"forecast/{TABLE}/metadata"])
def test_a_table_behind_a_link_is_neither_read_nor_written_nor_swept(original, part):
    copy = copied(original)
    shutil.rmtree(copy / "lake" / part)
    (copy / "lake" / part).symlink_to(original / "lake" / part)
    before, lake = tree(original), opened(copy)
    with pytest.raises(LakeError):
        lake.query(f"SELECT * FROM {TABLE}")
    with pytest.raises(LakeError):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0))
    maintain(lake, keep=DAY, now=dt.datetime.now(dt.UTC) + 30 * DAY)
    assert tree(original) == before


def test_a_lake_that_is_in_use_cannot_be_had_alone(original):
    lake = opened(original)
    lake.read(TABLE)
    with pytest.raises(LakeError, match="in use"):
        hold_alone(original / "lake")
    lake.catalog.close()
    with hold_alone(original / "lake"), pytest.raises(LakeError, match="being moved"):
        hold(original / "lake")


# --- hostile metadata


@pytest.mark.parametrize(
    ("location", "inside"),
    [
        (
            "file:///old/home/lake/forecast/t/data/week=2024-01-05/a.parquet",
            "forecast/t/data/week=2024-01-05/a.parquet",
        ),
        ("/old/forecast/forecast/t/metadata/a.avro", "forecast/t/metadata/a.avro"),
        ("file:///old/forecast/x/data/lake/forecast/t/data/a b%20c#?.parquet", "forecast/t/data/a b%20c#?.parquet"),
        ("file:///forecast/t", "forecast/t"),
    ],
)
def test_a_location_is_looked_up_in_the_warehouse_at_hand(tmp_path, location, inside):
    assert Inside(str(tmp_path)).path(location) == f"{tmp_path}/{inside}"


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/lake/forecast/t/data/a.parquet",
        "file:///etc/passwd",
        "forecast/t/data/a.parquet",
        "file://host/forecast/../t/data/a",
        "file:///lake/forecast/t/data/../../../../precious",
        "file:///lake/forecast/../data/a",
        "file:///lake/forecast/t/data//a",
        "file:///lake/forecast/t/other/a",
        "file:///lake/forecast/t/data/a\0b",
        "",
    ],
)
def test_a_location_that_is_no_tables_file_is_refused(tmp_path, location):
    with pytest.raises(OutsideHome):
        Inside(str(tmp_path)).path(location)


_STEPS = ["..", ".", "forecast", TABLE, "data", "metadata", "linked", "precious.parquet", "landing", "lake", ""]
HOSTILE = st.builds(
    lambda prefix, root, steps: prefix + root + "/" + "/".join(steps),
    st.sampled_from(["", "file://", "file:", "s3://"]),
    st.sampled_from(["", "{original}", "{original}/lake", "{copy}/lake", "{copy}/lake/forecast/" + TABLE, "{outside}"]),
    st.lists(st.sampled_from(_STEPS), max_size=6),
)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    where=st.sets(st.sampled_from(["catalog", "location", "log", "property", "links"]), min_size=1), location=HOSTILE
)
def test_nothing_outside_its_home_is_touched_whatever_a_catalog_says(tmp_path, template, where, location):
    base = Path(str(shutil.copytree(template, tmp_path / f"case{len(list(tmp_path.iterdir()))}", symlinks=True)))
    original, copy, outside = base / "original", base / "copy", base / "outside"
    location = location.format(original=original, copy=copy, outside=outside)
    database = copy / "lake" / "catalog.db"
    with sqlite3.connect(database) as con:
        ((named,),) = con.execute("SELECT metadata_location FROM iceberg_tables WHERE table_name = ?", [TABLE])
        state = copy / "lake" / "forecast" / TABLE / "metadata" / named.rpartition("/")[2]
        if "catalog" in where:
            con.execute("UPDATE iceberg_tables SET metadata_location = ?", [location])
    con.close()
    metadata = json.loads(state.read_text())
    if "location" in where:
        metadata["location"] = location
    if "log" in where:  # enough that the next commit deletes some of them
        metadata["metadata-log"] = [{"metadata-file": location, "timestamp-ms": 1}] * 12 + metadata["metadata-log"]
    if "property" in where:
        for name in ("write.data.path", "write.metadata.path", "warehouse"):
            metadata["properties"][name] = location
    state.write_text(json.dumps(metadata))
    if "links" in where:
        for folder in (copy / "lake" / "forecast" / TABLE / part for part in ("data", "metadata")):
            (folder / "linked").symlink_to(outside)
            (folder / "one.parquet").symlink_to(outside / "precious.parquet")
    elsewhere = {place: tree(place) for place in (original, outside)}
    rest = tree(copy / "landing")
    lake = opened(copy)
    maintain(lake, keep=DAY, now=dt.datetime.now(dt.UTC) + 30 * DAY)
    for write in (one_week(week(0), 9.0), one_week(week(0), 10.0)):
        try:
            lake.replace_weeks(TABLE, [week(0)], write)
        except (LakeError, OSError, ValueError):
            break
    maintain(opened(copy), keep=DAY, now=dt.datetime.now(dt.UTC) + 30 * DAY)
    assert {place: tree(place) for place in (original, outside)} == elsewhere
    assert tree(copy / "landing") == rest, "nor what is in the home but not in its lake"
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """An original, its copy, and files of somebody else."""
    base = tmp_path_factory.mktemp("hostile")
    lake = opened(base / "original")
    for value in (1.0, 2.0):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), value))
    (base / "original" / "landing").mkdir()
    (base / "original" / "landing" / "precious.parquet").write_text("mine")
    shutil.copytree(base / "original", base / "copy")
    shutil.copytree(base / "original" / "lake" / "forecast", base / "outside" / "forecast")
    (base / "outside" / "precious.parquet").write_text("mine")
    return base
