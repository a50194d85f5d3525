"""Batch files: who is on which line, and every way an answer can be wrong is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.engines.predictions import BatchError
from forecast_platform.engines.sagemaker.batch import Batch, read_batch, write_batch
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.models.encoding import Categories, to_series_set
from forecast_platform.models.target import SALES, build_target

QUANTILES, HORIZON, SAMPLES = (0.1, 0.5, 0.9), 3, 4


def answer(value: float) -> dict:
    """A well-formed answer whose numbers say whose it is."""
    steps = value + np.arange(HORIZON)
    return {
        "quantiles": {f"{q:g}": (steps + i - 1).tolist() for i, q in enumerate(QUANTILES)},
        "samples": (steps + np.zeros((SAMPLES, 1))).tolist(),
    }


def batch_of(folder: Path, panel: Panel, categories: Categories, shards: int) -> Batch:
    """A batch that asks for sales as they are."""
    return write_batch(folder, panel, build_target(panel, HORIZON, SALES), categories, shards)


def finish(batch: Batch) -> None:
    """Answer every line with its first observed sales."""
    for source, output in batch.shards():
        lines = [json.loads(line) for line in source.read_text().splitlines()]
        output.write_text("".join(json.dumps(answer(line["target"][0])) + "\n" for line in lines))


def read(batch: Batch):
    return list(read_batch(batch, QUANTILES, HORIZON))


@pytest.fixture
def batch(tmp_path, panel) -> Batch:
    batch = batch_of(tmp_path / "2024-03-22", panel, Categories.of(panel), shards=2)
    finish(batch)
    return batch


class TestWriting:
    @pytest.mark.parametrize("shards", [1, 2, 3, 5, 99])
    def test_every_series_is_on_one_line_of_one_shard(self, tmp_path, panel, shards):
        batch = batch_of(tmp_path / "batch", panel, Categories.of(panel), shards)
        sizes = [len(source.read_text().splitlines()) for source, _ in batch.shards()]
        assert len(sizes) == min(shards, len(panel))
        assert sum(sizes) == len(panel)
        assert max(sizes) - min(sizes) <= 1
        rows = batch.manifest.to_pylist()
        assert [(r["store"], r["dept"]) for r in rows] == list(zip(panel.store, panel.dept, strict=True))
        for i, row in enumerate(rows):
            line = (batch.folder / "input" / row["shard"]).read_bytes().splitlines()[row["line"]]
            assert hashlib.sha256(line).hexdigest() == row["sha256"]
            record = json.loads(line)
            assert record["start"] == f"{panel.weeks[panel.first[i]]} 00:00:00"
            expected = [None if x != x else x for x in panel.sales[i, panel.first[i] :].tolist()]
            assert record["target"] == expected
            assert record["cat"] == Categories.of(panel).encode(panel)[i].tolist()
            assert np.datetime64(row["last_week"]) == panel.weeks[panel.last[i]]

    def test_equal_panels_give_equal_bytes(self, tmp_path, panel):
        folders = [batch_of(tmp_path / name, panel, Categories.of(panel), 2).folder for name in "ab"]
        contents = [{p.name: p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()} for f in folders]
        assert contents[0] == contents[1]

    def test_a_batch_is_replaced_whole(self, batch, panel):
        again = batch_of(batch.folder, panel.select(np.arange(5) < 2), Categories.of(panel), shards=1)
        assert [p.name for p in sorted(again.folder.rglob("*.json*"))] == ["shard-000.json"], "no old output is left"
        assert len(again.manifest) == 2
        assert not list(batch.folder.parent.glob("*.building"))

    def test_what_a_killed_writer_left_is_no_hindrance(self, tmp_path, panel):
        (tmp_path / "batch.building" / "input").mkdir(parents=True)
        (tmp_path / "batch.building" / "input" / "shard-009.json").write_text("half")
        assert len(batch_of(tmp_path / "batch", panel, Categories.of(panel), 2).shards()) == 2

    def test_no_series_at_all(self, tmp_path, panel):
        batch = batch_of(tmp_path / "batch", panel.select(np.zeros(5, bool)), Categories.of(panel), 2)
        assert batch.shards() == []
        assert read(batch) == []

    @pytest.mark.parametrize("shards", [1, 2])
    def test_features_reach_from_each_series_first_week_through_the_weeks_ahead(self, tmp_path, panel, shards):
        features = np.arange(2 * 5 * (12 + HORIZON), dtype=float).reshape(2, 5, 12 + HORIZON)
        given = Covariates((Declaration("promo"), Declaration("price")), features)
        batch = batch_of(tmp_path / "batch", dataclasses.replace(panel, covariates=given), Categories.of(panel), shards)
        lines = [line for source, _ in batch.shards() for line in source.read_text().splitlines()]
        for i, line in enumerate(lines):
            np.testing.assert_array_equal(json.loads(line)["dynamic_feat"], features[:, i, panel.first[i] :])
        series = to_series_set(panel, Categories.of(panel), features)
        read = deepar.read_records([source for source, _ in batch.shards()])
        np.testing.assert_array_equal(read.dynamic_feat, series.dynamic_feat)
        np.testing.assert_array_equal(read.feat_indptr, series.feat_indptr)

    def test_without_features_there_is_no_such_field(self, batch):
        assert "dynamic_feat" not in json.loads(batch.shards()[0][0].read_text().splitlines()[0])


class TestReading:
    def test_answers_meet_their_series(self, batch, panel):
        shards = read(batch)
        assert [len(s.rows) for s in shards] == [3, 2]
        names = [(r["store"], r["dept"]) for s in shards for r in s.rows.to_pylist()]
        assert names == list(zip(panel.store.tolist(), panel.dept.tolist(), strict=True))
        samples = np.concatenate([s.samples for s in shards])
        first_sales = panel.sales[np.arange(5), panel.first].astype(np.float32)
        np.testing.assert_allclose(samples[:, 0], first_sales[:, None] + np.arange(HORIZON), rtol=1e-6)
        assert [s.quantiles.shape for s in shards] == [(3, 3, 3), (2, 3, 3)]
        assert [s.samples.shape for s in shards] == [(3, SAMPLES, 3), (2, SAMPLES, 3)]
        np.testing.assert_array_equal(np.concatenate([s.quantiles for s in shards])[:, 1], samples[:, 0])

    def output(self, batch: Batch) -> Path:
        return batch.shards()[1][1]

    def change(self, batch: Batch, change) -> None:
        """Change the second answer of the second shard."""
        lines = self.output(batch).read_text().splitlines()
        answer = json.loads(lines[1])
        change(answer)
        self.output(batch).write_text("\n".join([lines[0], json.dumps(answer)]) + "\n")

    def refused(self, batch: Batch, why: str) -> None:
        with pytest.raises(BatchError, match=why):
            read(batch)

    def test_a_shard_without_output(self, batch):
        self.output(batch).unlink()
        self.refused(batch, r"shard-001.json.out is missing: the transform of shard-001.json did not finish")

    def test_a_short_output(self, batch):
        lines = self.output(batch).read_text().splitlines()
        self.output(batch).write_text(lines[0] + "\n")
        self.refused(batch, "shard-001.json.out has 1 lines for 2 series")

    def test_a_long_output(self, batch):
        text = self.output(batch).read_text()
        self.output(batch).write_text(text + text)
        self.refused(batch, "has 4 lines for 2 series")

    def test_an_empty_output(self, batch):
        self.output(batch).write_text("")
        self.refused(batch, "has 0 lines for 2 series")

    def test_a_torn_line(self, batch):
        self.output(batch).write_text(self.output(batch).read_text()[:-10])
        self.refused(batch, "shard-001.json.out: line 2 is not JSON")

    def test_a_line_that_is_no_object(self, batch):
        lines = self.output(batch).read_text().splitlines()
        self.output(batch).write_text(f"{lines[0]}\n[1, 2]\n")
        self.refused(batch, "line 2 is not a JSON object")

    @pytest.mark.parametrize("value", [None, "NaN"])
    def test_a_value_that_is_not_finite(self, batch, value):
        def change(answer):
            answer["samples"][0][1] = value

        self.change(batch, change)
        self.refused(batch, "shard-001.json.out: line 2: samples is not finite")

    def test_a_quantile_that_is_not_finite(self, batch):
        self.change(batch, lambda a: a["quantiles"].update({"0.5": [1.0, None, 1.0]}))
        self.refused(batch, "line 2: quantiles is not finite")

    def test_crossing_quantiles(self, batch):
        crossed = {"0.1": [3.0, 3.0, 0.0], "0.5": [2.0, 3.0, 1.0], "0.9": [4.0, 4.0, 4.0]}
        self.change(batch, lambda a: a.update(quantiles=crossed))
        self.refused(batch, "shard-001.json.out: line 2: quantiles cross")

    def test_equal_quantiles_do_not_cross(self, batch):
        self.change(batch, lambda a: a.update(quantiles={q: [1.0, 2.0, 3.0] for q in a["quantiles"]}))
        assert len(read(batch)) == 2

    def test_another_horizon(self, batch):
        with pytest.raises(BatchError, match="quantiles has 3 weeks, prediction_length is 4"):
            list(read_batch(batch, QUANTILES, 4))

    def test_one_line_of_another_horizon(self, batch):
        self.change(batch, lambda a: a["samples"][0].pop())
        self.refused(batch, "shard-001.json.out: lines .*differ in shape")

    @pytest.mark.parametrize("missing", ["quantiles", "samples"])
    def test_a_part_of_an_answer_is_missing(self, batch, missing):
        self.change(batch, lambda a: a.pop(missing))
        self.refused(batch, f"shard-001.json.out: lines lack .*'{missing}'")

    def test_a_level_is_missing(self, batch):
        with pytest.raises(BatchError, match=r"lines lack .*'0\.75'"):
            list(read_batch(batch, (0.1, 0.5, 0.75), HORIZON))

    def test_parts_of_another_depth(self, batch):
        """As many numbers as there are weeks would else pass for weeks."""
        for _, output in batch.shards():
            lines = [json.loads(line) for line in output.read_text().splitlines()]
            flat = [line | {"samples": line["samples"][0]} for line in lines]
            output.write_text("".join(json.dumps(line) + "\n" for line in flat))
        self.refused(batch, "samples are nested 1 deep, should be 2")

    def test_an_input_that_is_no_longer_the_one_in_the_manifest(self, batch):
        source = batch.shards()[1][0]
        lines = source.read_text().splitlines()
        source.write_text("\n".join([lines[0], lines[1].replace("[", "[ ", 1)]) + "\n")
        self.refused(batch, r"shard-001.json: line 2 is not the one in the manifest; run batch_predictions again")

    def test_inputs_in_another_order(self, batch):
        source = batch.shards()[0][0]
        source.write_text("\n".join(reversed(source.read_text().splitlines())) + "\n")
        self.refused(batch, r"shard-000.json: line 1 is not the one in the manifest")

    @pytest.mark.parametrize("lines", [1, 3])
    def test_an_input_with_lines_lost_or_added(self, batch, lines):
        source = batch.shards()[1][0]
        text = source.read_text().splitlines()
        source.write_text("\n".join((text + text)[:lines]) + "\n")
        self.refused(batch, rf"shard-001.json has {lines} lines, the manifest 2; run batch_predictions again")

    def test_a_shard_whose_input_is_gone_does_not_lose_its_series_silently(self, batch):
        source, output = batch.shards()[1]
        source.unlink()
        output.unlink()
        self.refused(batch, "shard-001.json is missing")
