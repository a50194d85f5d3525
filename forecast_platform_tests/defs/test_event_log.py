"""Dagster's event log, kept open by runs of the command line: nobody else sees a difference."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef

from forecast_platform.defs.event_log import keep_open


def opened(folder: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder)))


def run(instance: dg.DagsterInstance, name: str, partitions: int) -> str:
    """A run that materializes as many partitions of an asset."""

    @dg.asset(name=name, partitions_def=dg.StaticPartitionsDefinition([str(p) for p in range(partitions)]))
    def made() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"rows": 3}, tags={"kind": "a"})

    return dg.materialize([made], instance=instance, partition_key="0").run_id


def materialized(instance: dg.DagsterInstance, name: str) -> list[str | None]:
    records = instance.fetch_materializations(dg.AssetKey(name), limit=100, ascending=True).records
    return [record.partition_key for record in records]


def test_others_read_what_is_written_and_write_meanwhile(tmp_path: Path) -> None:
    here, there = opened(tmp_path), opened(tmp_path)
    keep_open(here)
    first = run(here, "a", 3)
    assert materialized(there, "a") == ["0"]
    assert len(there.all_logs(first)) == len(here.all_logs(first)) > 8
    for partition in "12":
        there.report_runless_asset_event(dg.AssetMaterialization("a", partition=partition))
        here.report_runless_asset_event(dg.AssetMaterialization("a", partition=partition + "0"))
    assert materialized(here, "a") == materialized(there, "a") == ["0", "1", "10", "2", "20"]
    here.dispose()
    there.dispose()
    # Closed: what was written lies in the files themselves, which may be copied.
    assert not [*tmp_path.rglob("*.db-wal")]
    assert materialized(opened(tmp_path), "a") == ["0", "1", "10", "2", "20"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = opened(tmp_path)
    keep_open(here)
    log = here.event_log_storage
    with monkeypatch.context() as patch:
        patch.setattr(log, "_store_asset_event", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            here.report_runless_asset_event(dg.AssetMaterialization("a", partition="1"))
    here.report_runless_asset_event(dg.AssetMaterialization("a", partition="2"))
    assert materialized(here, "a") == materialized(opened(tmp_path), "a") == ["2"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are listed by /proc")
def test_files_are_opened_once_and_closed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, times, connect = opened(tmp_path), [], sqlite3.dbapi2.connect
    monkeypatch.setattr(sqlite3.dbapi2, "connect", lambda path, *a, **k: times.append(path) or connect(path, *a, **k))
    keep_open(here)
    for number in range(20):
        here.report_runless_asset_event(dg.AssetMaterialization("a", partition=str(number)))
    index = [path for path in times if "index.db" in str(path)]
    assert len(index) <= 2
    here.dispose()
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert not [path for path in held if str(tmp_path) in path and "index.db" in path]
