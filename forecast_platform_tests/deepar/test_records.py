from __future__ import annotations

import datetime as dt
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.deepar import ContractError, SeriesSet, read_records, write_records
from forecast_platform.deepar.records import from_lines, from_objects

GOOD = {"start": "2010-02-05 00:00:00", "target": [1.0, None, 3], "cat": [0, 1]}


def same(a: SeriesSet, b: SeriesSet) -> None:
    assert np.array_equal(a.start, b.start)
    assert np.array_equal(a.indptr, b.indptr)
    assert np.array_equal(a.values, b.values, equal_nan=True)
    for x, y in ((a.cat, b.cat), (a.dynamic_feat, b.dynamic_feat), (a.feat_indptr, b.feat_indptr)):
        assert (x is None) == (y is None)
        assert x is None or np.array_equal(x, y)


def write(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return path


def test_reads_every_format_alike(tmp_path):
    records = [GOOD, {**GOOD, "target": [2, "NaN"], "start": "2010-02-12"}]
    write(tmp_path / "a.json", *records)
    with gzip.open(tmp_path / "a.json.gz", "wt") as f:
        f.write("\n".join(map(json.dumps, records)))
    table = pa.table(
        {
            "start": pa.array([dt.datetime(2010, 2, 5), dt.datetime(2010, 2, 12)]),
            "target": [[1.0, float("nan"), 3.0], [2.0, float("nan")]],
            "cat": [[0, 1], [0, 1]],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second, third = (read_records(tmp_path / n) for n in ("a.json", "a.json.gz", "a.parquet"))
    assert np.array_equal(first.values, [1, np.nan, 3, 2, np.nan], equal_nan=True)
    same(first, second)
    same(first, third)
    assert third.name(1) == "a.parquet row 2"


def test_folders_are_read_recursively_without_hidden_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".c").mkdir()
    write(tmp_path / "b" / "part-0.json", GOOD)
    write(tmp_path / "a.json", GOOD, GOOD)
    write(tmp_path / ".hidden.json", "rubbish")
    write(tmp_path / ".c" / "x.json", "rubbish")
    (tmp_path / "_SUCCESS").touch()
    series = read_records(tmp_path, time_freq="1W")
    assert [series.name(i) for i in range(3)] == ["a.json line 1", "a.json line 2", "part-0.json line 1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"start":"2010-02-05","target":[1,NaN]}', r"a.json line 2: bare NaN .* write null"),
        ('{"start":"2010-02-05","target":[-Infinity]}', "bare NaN or Infinity is not JSON"),
        ("{", "line 2: the object does not end on this line; .* not pretty-printed"),
        ('{"start":"2010-02-05","target":[1]', "not pretty-printed"),
        ("[1, 2]", "a record is a JSON object; this is a list"),
        ('{"target":[1]}', "line 2: field 'start' is missing"),
        ('{"start":"2010-02-05"}', "field 'target' is missing"),
        ('{"start":"05/02/2010","target":[1]}', 'start is .05/02/2010.; write "YYYY-MM-DD HH:MM:SS"'),
        ('{"start":"2010-02-30","target":[1]}', "start is .2010-02-30."),
        ('{"start":"2010-02-05T00:00:00Z","target":[1]}', "without a time zone"),
        ('{"start":1265328000,"target":[1]}', "start is 1265328000"),
        ('{"start":"2010-02-05","target":[]}', "at least one value"),
        ('{"start":"2010-02-05","target":[1,"2"]}', r"target\[1\] is '2'; write a number, or null"),
        ('{"start":"2010-02-05","target":[true]}', r"target\[0\] is True"),
        ('{"start":"2010-02-05","target":[1e39],"cat":[0,1]}', "target value 0 is infinite or beyond"),
        ('{"start":"2010-02-05","target":[1],"cat":[0,1.5]}', "cat is .* whole numbers from 0"),
        ('{"start":"2010-02-05","target":[1],"cat":[0,-1]}', "whole numbers from 0"),
        ('{"start":"2010-02-05","target":[1],"cat":[0]}', "cat has 1 values, in a.json line 1 it has 2"),
        ('{"start":"2010-02-05","target":[1]}', "cat has no values"),
        ('{"start":"2010-02-05","target":[1],"cat":[0,1],"dynamic_feat":[[null]]}', r"feat\[0\]\[0\] is None"),
        ('{"start":"2010-02-05","target":[1],"cat":[0,1],"dynamic_feat":[[1],[1,2]]}', "of 1 and 2 values"),
        ('{"start":"2010-02-05","target":[1],"dynamic_feats":[[1]]}', "did you mean 'dynamic_feat'"),
    ],
)
def test_a_bad_line_is_named_with_rule_and_fix(tmp_path, line, message):
    with pytest.raises(ContractError, match=message):
        read_records(write(tmp_path / "a.json", GOOD, line))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ContractError, match="no such file"):
        read_records(tmp_path / "none.json")
    with pytest.raises(ContractError, match="no record files"):
        read_records(tmp_path)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-9])
    with pytest.raises(ContractError, match=r"a.json.gz: not a whole gzip file"):
        read_records(tmp_path)
    (tmp_path / "a.json.gz").unlink()
    write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(ContractError, match="unknown ending; name record files"):
        read_records(tmp_path)
    assert len(read_records(tmp_path / "a.jsonl")) == 1  # named outright, it is JSON Lines
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ContractError, match=r"a.parquet: not a readable Parquet file"):
        read_records(tmp_path)
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "a.json").touch()
    with pytest.raises(ContractError, match="hold no records"):
        read_records(tmp_path)


floats = st.one_of(st.just(np.nan), st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_round_trip(tmp_path, data):
    n = data.draw(st.integers(1, 5))
    targets = [data.draw(st.lists(floats, min_size=1, max_size=8)) for _ in range(n)]
    width, n_cat = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 3))
    feats = None
    if width:
        clean = [[0.5 if np.isnan(v) else v for v in t] for t in targets]
        feats = [np.array([t] * width, dtype=np.float32) for t in clean]
    cat = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=n_cat, max_size=n_cat), min_size=n, max_size=n))
    starts = data.draw(
        st.lists(
            st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0)),
            min_size=n,
            max_size=n,
        )
    )
    series = SeriesSet.from_arrays(
        np.array(starts, dtype="datetime64[s]"), targets, np.array(cat, dtype=int) if n_cat else None, feats
    )
    for name in ("a.json", "a.json.gz"):
        assert write_records(series, tmp_path / name) == n
        same(read_records(tmp_path / name), series)


def test_writing_is_deterministic_and_leaves_no_temporary_file(tmp_path):
    series = SeriesSet.from_arrays(["2010-02-05"], [[1.0, np.nan]])
    write_records(series, tmp_path / "a.json.gz")
    before = (tmp_path / "a.json.gz").read_bytes()
    write_records(series, tmp_path / "a.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json.gz"]
    assert b"NaN" not in gzip.decompress(before)


def test_objects_of_a_request_are_checked_like_lines():
    same(from_objects([GOOD]), SeriesSet.from_arrays([GOOD["start"].replace(" ", "T")], [[1, np.nan, 3]], [[0, 1]]))
    with pytest.raises(ContractError, match="instance 1: field 'start' is missing"):
        from_objects([GOOD, {"target": [1]}])
    with pytest.raises(ContractError, match="instance 0: a record is a JSON object"):
        from_objects([3])


def test_lines_in_memory_read_as_a_file_of_them_and_are_named_by_their_number(tmp_path):
    lines = [json.dumps(GOOD).encode(), b"", json.dumps({**GOOD, "target": [2]}).encode()]
    (tmp_path / "a.json").write_bytes(b"\n".join(lines))
    same(from_lines(lines, "request"), read_records(tmp_path / "a.json"))
    with pytest.raises(ContractError, match=r"^request line 12: field 'start' is missing"):
        from_lines([*lines[:2], b'{"target": [1]}'], "request", first=10)
    with pytest.raises(ContractError, match="hold no records"):
        from_lines([b"", b"\n"], "request")
