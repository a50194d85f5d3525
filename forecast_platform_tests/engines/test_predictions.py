"""What a batch prediction leaves: the same whatever the number of shards, and every way it can be damaged is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.engines.base import FINE_LEVELS, Asked, Prepared, ToAsk, predict_here, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import NAME, BatchError, Predictions, ShardForecast, hazen
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Sums
from forecast_platform.levels import SUMS, Level
from forecast_platform.models import trained as module
from forecast_platform.models.blend import Blend
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.choose import Choice, Judgement
from forecast_platform.models.combine import Combination, InSales, spread_about
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.registry import plans
from forecast_platform.settings import Settings

QUANTILES = (0.1, 0.5, 0.9)
REGION = Level("region", of="store", values={"1": "North", "2": "South"})
ASKED = Asked(QUANTILES, 20, 5)
SMALL = {"epochs": "1", "num_cells": "8", "num_networks": "2", "mini_batch_size": "32"}


def retailer(weeks: int = 100) -> Panel:
    """14 series of three stores, two and a half departments each; some late, some silent, with days open and a plan."""
    rng = np.random.default_rng(2)
    store, dept = np.repeat(["1", "2", "3"], [6, 5, 3]), np.array([*"abcdef", *"abcde", *"abc"])
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(weeks) / 52)
    sales = (rng.uniform(50, 500, (14, 1)) * season * rng.lognormal(0, 0.2, (14, weeks))).round(2)
    sales[3, :30], sales[7, 40:43], sales[9, -6:], sales[12, -3:] = np.nan, np.nan, 0.0, 0.0
    sales[0, 50:56], sales[2, 60:64], sales[5, 30:39] = 0.0, 0.0, 0.0  # from which others learn who returns
    days = rng.choice([5.0, 6.0, 6.0, 7.0], (1, 14, weeks + 4))
    promo = rng.integers(0, 2, (1, 14, weeks + 4)).astype(float)
    return Panel(
        store, dept, np.datetime64("2023-01-06") + 7 * np.arange(weeks), sales,
        Covariates((Declaration("promo"),), promo), Covariates((Declaration("open_days"),), days),
    )  # fmt: skip


BLENDS = (
    Blend.by({"ratio": 0.7, "aligned_last_year": 0.3}),
    Blend.by({"reference": 0.7, "sales": 0.2, "last_value": 0.1}),
    Blend({"sales": (0.5, 0.2, 0.8), "recent_level": (0.5, 0.8, 0.2)}),
    Blend.alone("aligned_last_year"),
    Blend.by({"recent_level": 1, "last_year": 3}),
    Blend.by({"pretrained": 6, "intermittent": 1}),
)


@pytest.fixture(scope="module", params=BLENDS, ids=lambda blend: " ".join(blend.names))
def model(request, tmp_path_factory):
    settings = [Settings(context_length=4, prediction_length=4, target=name, hyperparameters=SMALL)
                for name in request.param.names]  # fmt: skip
    given = {name: parameters for each in settings for name, parameters in plans(each).items()}
    calibration = Calibration(((1.0, 2.0), (1.5, 1.2)), (200.0,), dependence=Dependence.fit([], QUANTILES))
    choice = Choice(request.param, Judgement("unjudged", "played"), calibration)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose", lambda *_: choice)
        return LocalEngine(tmp_path_factory.mktemp("models")).train(retailer(), given)


def test_the_number_of_shards_changes_nothing_not_even_the_sums_of_paths(model, tmp_path):
    found = {}
    for shards in (1, 2, 7):
        made, _ = predict_here(model, split(retailer(), shards), tmp_path / str(shards), ASKED)
        assert len(made.said["shards"]) == shards
        parts = list(made.shards(QUANTILES, 4))
        sums = {level.name: reduce(Sums.__add__, [part.sums[level.name] for part in parts]) for level in SUMS}
        found[shards] = ShardForecast.together(parts), sums
    whole, sums = found[1]
    assert sums["total"].values.shape == (1, 20, 4)
    for shards in (2, 7):
        again, again_sums = found[shards]
        for name in ("store", "dept", "last_week", "mean", "quantiles", "lead_time"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name), err_msg=f"{name} of {shards}")
        for level, total in sums.items():
            assert again_sums[level].names.tolist() == total.names.tolist()
            np.testing.assert_array_equal(again_sums[level].values, total.values, err_msg=f"{level} of {shards}")


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 14, 99])
def test_shards_are_about_alike_and_none_is_empty(shards):
    parts = split(retailer(), shards)
    sizes = [len(part) for part in parts]
    assert (len(parts), sum(sizes)) == (min(shards, 14), 14)
    assert max(sizes) - min(sizes) <= 1
    assert [d for part in parts for d in part.dept] == retailer().dept.tolist()


@pytest.mark.parametrize("paths", [1, 2, 7, 100, 101])
def test_quantiles_of_sorted_paths_are_numpys_to_the_last_bit(paths):
    rng = np.random.default_rng(0)
    samples = np.where(rng.random((9, paths, 5)) < 0.3, 0.0, rng.gamma(2, 50, (9, paths, 5)))
    for levels in ((0.1, 0.5, 0.9), (0.005, 0.3, 0.7, 0.999), tuple(rng.random(20))):
        want = np.quantile(samples, levels, axis=1, method="hazen").swapaxes(0, 1)
        assert np.array_equal(hazen(samples, levels), want)


class TestCombined:
    """Outputs of two networks and what needs none, as (series, levels, weeks): in sales, blended, widened, faded."""

    ROWS, WEEKS = 14, 4
    WEIGHTS = (0.5, 0.3, 0.2)  # of the first network, of the second, of what needs none

    def ready(self, dependence: Dependence | None = None, **more) -> Prepared:
        rng = np.random.default_rng(1)
        shape = (self.ROWS, self.WEEKS)
        none = np.full(self.ROWS, -np.inf)
        to_ask = tuple(
            ToAsk(None, np.full(self.ROWS, weight), None,
                  InSales(rng.uniform(90, 110, shape), rng.uniform(1, 9, shape), none))
            for weight in self.WEIGHTS[:2]
        )  # fmt: skip
        self.free = np.sort(rng.uniform(500, 999, (self.ROWS, len(FINE_LEVELS), self.WEEKS)), axis=1)
        how = Combination(rng.uniform(0.5, 2, shape), np.zeros(self.ROWS), np.ones(shape))
        how = dataclasses.replace(how, **more)
        return Prepared(retailer(), to_ask, self.WEIGHTS[2] * self.free, how, dependence or Dependence(), ())

    def outputs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(3)
        return [
            (np.sort(rng.uniform(1, 9, (self.ROWS, 3, self.WEEKS)), axis=1),
             rng.uniform(1, 9, (self.ROWS, ASKED.num_samples, self.WEEKS)))
            for _ in range(2)
        ]  # fmt: skip

    @pytest.mark.parametrize("among", [slice(None), slice(3, 9)])
    def test_quantiles_paths_and_mean_are_blended_alike(self, among):
        ready, outputs = self.ready(), self.outputs()
        found = ready.forecast([(q[among], s[among]) for q, s in outputs], ASKED, among)
        one, other = ([ask.in_sales.unit[:, None] * x - ask.in_sales.offset[:, None] for x in each]
                      for ask, each in zip(ready.to_ask, outputs, strict=True))  # fmt: skip
        at = [FINE_LEVELS.index(q) for q in QUANTILES]
        blend = 0.5 * one[0] + 0.3 * other[0] + 0.2 * self.free[:, at]
        # The highest path is the highest of all members, the second highest the second of all.
        ranks = (np.arange(ASKED.num_samples) + 0.5) / ASKED.num_samples
        free = np.apply_along_axis(lambda known: np.interp(ranks, FINE_LEVELS, known), 1, self.free)
        ascending = 0.5 * np.sort(one[1], axis=1) + 0.3 * np.sort(other[1], axis=1) + 0.2 * free
        paths = Dependence().arranged(ascending, retailer().store, retailer().dept, ASKED.seed)
        want = {
            n: spread_about(x, blend[:, 1], ready.combination.widths, ready.combination.least)[among]
            for n, x in (("quantiles", blend), ("paths", paths))
        }
        np.testing.assert_allclose(found.quantiles, want["quantiles"])
        np.testing.assert_allclose(found.mean, want["paths"].mean(axis=1))
        np.testing.assert_allclose(found.sums["total"].values[0], want["paths"].sum(axis=0))
        assert found.dept.tolist() == retailer().dept[among].tolist()

    def test_what_moves_series_together_shows_in_sums_and_in_no_series(self):
        asked = dataclasses.replace(ASKED, num_samples=400)
        rng = np.random.default_rng(3)
        outputs = [(np.ones((self.ROWS, 3, self.WEEKS)), rng.uniform(1, 9, (self.ROWS, 400, self.WEEKS)))] * 2
        together = Dependence({"total": 0.5, "store": 0, "dept": 0, "series": 0.5}, Dependence().lasting)
        one, other = (self.ready(each).forecast(outputs, asked) for each in (Dependence(), together))
        np.testing.assert_array_equal(other.quantiles, one.quantiles)
        np.testing.assert_allclose(other.mean, one.mean)
        spread = [found.sums["total"].values[0].std(axis=0) for found in (one, other)]
        # The variance of 14 alike is 14, and half as much again as of every pair: 14 x (1 + 13 / 2).
        np.testing.assert_allclose(spread[1] / spread[0], np.sqrt(7.5), rtol=0.2)

    def test_lead_time_demand_is_of_paths_added_up_and_of_one_week_the_forecast_itself(self):
        ready, (quantiles, samples) = self.ready(), self.outputs()[0]
        alone = dataclasses.replace(ready.to_ask[0], weight=np.ones(self.ROWS))
        ready = dataclasses.replace(ready, to_ask=(alone,), without_network=None)
        found = ready.forecast([(quantiles, samples)], ASKED)
        said, drawn = (alone.in_sales.quantiles(each) for each in (quantiles, samples))
        drawn = Dependence().arranged(drawn, retailer().store, retailer().dept, ASKED.seed)
        paths = ready.combination.paths(drawn, said[:, 1], ["?"] * self.ROWS)
        for weeks in (2, 4):
            want = np.quantile(paths[:, :, :weeks].sum(axis=2), QUANTILES, axis=1, method="hazen").T
            np.testing.assert_allclose(found.lead_time[:, :, weeks - 1], want)
        np.testing.assert_array_equal(found.lead_time[:, :, 0], found.quantiles[:, :, 0])

    def test_a_series_that_has_stopped_is_nothing_in_all_of_them(self):
        returns = np.ones((self.ROWS, self.WEEKS))
        returns[5] = 0
        found = self.ready(returns=returns).forecast(self.outputs(), ASKED)
        assert (found.quantiles[5] == 0).all()
        assert (found.mean[5] == 0).all()
        assert (found.mean[4] > 0).all()


@pytest.fixture
def made(tmp_path) -> Predictions:
    panel = retailer()
    rng = np.random.default_rng(0)
    shards = [
        ShardForecast.of(part, np.sort(rng.uniform(1, 9, (len(part), 3, 4)), axis=1), QUANTILES,
                         rng.uniform(1, 9, (len(part), 20, 4)), SUMS)
        for part in split(panel, 2)
    ]  # fmt: skip
    return Predictions.write(tmp_path / "2024-11-29", shards, QUANTILES, 4, "m-1", "now", (REGION,))


def read(made: Predictions) -> list[ShardForecast]:
    return list(made.shards(QUANTILES, 4))


class TestRead:
    def test_they_are_what_was_written(self, made):
        parts = read(made)
        assert [len(part.store) for part in parts] == [7, 7]
        assert (made.series, made.last_week) == (14, retailer().weeks[-1].astype(object))
        names = [f"{s}{d}" for part in parts for s, d in zip(part.store, part.dept, strict=True)]
        assert names == [f"{s}{d}" for s, d in zip(retailer().store, retailer().dept, strict=True)]
        assert parts[0].last_week.max() == retailer().weeks[-1]
        assert {name: sums.values.shape for name, sums in parts[0].sums.items()} == {
            "store": (2, 20, 4), "dept": (6, 20, 4), "total": (1, 20, 4),
        }  # fmt: skip
        np.testing.assert_allclose(parts[0].sums["total"].values[0].mean(axis=0), parts[0].mean.sum(axis=0))

    def test_a_folder_is_replaced_whole_and_what_a_killed_writer_left_is_no_hindrance(self, made):
        left = made.folder.with_name(made.folder.name + ".building")
        left.mkdir()
        (left / "series-007.parquet").write_text("half")
        again = Predictions.write(made.folder, read(made)[:1], QUANTILES, 4, "m-1", "now")
        assert sorted(p.name for p in again.folder.iterdir()) == [NAME, "series-000.parquet", "sums-000.parquet"]
        assert not left.exists()

    def test_a_writer_that_dies_leaves_those_of_before(self, made):
        before = {p.name: p.read_bytes() for p in made.folder.iterdir()}

        def dying():
            yield read(made)[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Predictions.write(made.folder, dying(), QUANTILES, 4, "m-1", "now")
        assert {p.name: p.read_bytes() for p in made.folder.iterdir()} == before

    def test_of_another_model_or_other_groups(self, made):
        made.check("m-1", (REGION,), "now")
        with pytest.raises(BatchError, match="is of model m-1; the week's is m-2 now; run batch_predictions again"):
            made.check("m-2", (REGION,), "now")
        moved = dataclasses.replace(REGION, values={"1": "North", "2": "North"})
        for levels in ((), (moved,), (REGION, moved)):
            with pytest.raises(BatchError, match=r"was summed by other groups .* say now; run batch_predictions again"):
                made.check("m-1", levels, "now")

    def test_of_another_mode(self, made):
        told = "is of the data as known now, not as known then; run batch_predictions again"
        with pytest.raises(BatchError, match=told):
            made.check("m-1", (REGION,), "then")
        (made.folder / NAME).write_text(json.dumps({k: v for k, v in made.said.items() if k != "as_known"}))
        with pytest.raises(BatchError, match="does not say when its data was known; run batch_predictions again"):
            made.check("m-1", (REGION,), "now")

    @pytest.mark.parametrize("part", ["quantiles", "paths"])
    def test_what_is_not_finite_is_never_written(self, part):
        given = {"quantiles": np.ones((14, 3, 4)), "paths": np.ones((14, 20, 4))}
        given[part][6, 1, 2] = np.nan
        with pytest.raises(BatchError, match="store 2, department a: the forecast is not finite"):
            ShardForecast.of(retailer(), given["quantiles"], QUANTILES, given["paths"], SUMS)

    @pytest.mark.parametrize("value", [-1e16, 2.0**52])
    def test_what_cannot_be_added_exactly_is_named_with_its_series(self, value):
        given = {"quantiles": np.ones((14, 3, 4)), "paths": np.ones((14, 20, 4))}
        given["paths"][6, 1, 2] = value
        told = r"store 2, department a: the forecast is not finite or beyond 4.5e\+15"
        with pytest.raises(BatchError, match=told):
            ShardForecast.of(retailer(), given["quantiles"], QUANTILES, given["paths"], SUMS)

    def test_of_another_version(self, made):
        (made.folder / NAME).write_text(json.dumps(made.said | {"version": 0}))
        with pytest.raises(BatchError, match="holds no predictions of this version"):
            Predictions.at(made.folder)

    def test_there_are_none(self, tmp_path):
        with pytest.raises(BatchError, match="holds no predictions of this version; run batch_predictions again"):
            Predictions.at(tmp_path / "2024-01-05")

    @pytest.mark.parametrize(("quantiles", "horizon"), [((0.1, 0.5), 4), (QUANTILES, 3)])
    def test_of_other_quantiles_or_another_horizon(self, made, quantiles, horizon):
        with pytest.raises(BatchError, match=r"is of quantiles \[0.1, 0.5, 0.9\] over 4 weeks, not .*run batch_pred"):
            list(made.shards(quantiles, horizon))

    @pytest.mark.parametrize("name", ["series-001.parquet", "sums-000.parquet"])
    def test_a_file_is_missing_or_another(self, made, name):
        path = made.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BatchError, match=f"{name} is not the file that was written; run batch_predictions again"):
            read(made)
        path.unlink()
        with pytest.raises(BatchError, match=f"{name} is missing"):
            read(made)

    @pytest.mark.parametrize(
        ("column", "value", "why"),
        [
            ("mean", np.nan, "store 1, department c: mean is not finite"),
            ("0.9", np.inf, "store 1, department c: quantiles is not finite"),
            ("0.5", 1e9, "store 1, department c: quantiles cross"),
            ("lead_time 0.1", np.nan, "store 1, department c: lead time is not finite"),
            ("lead_time 0.1", 1e9, "store 1, department c: lead time cross"),
        ],
    )
    def test_what_an_engine_should_never_have_written(self, made, column, value, why):
        """The hash is right, the content is not: the engine itself was wrong."""
        path = made.folder / "series-000.parquet"
        table = pq.read_table(path)
        values = table[column].combine_chunks().flatten().to_numpy().copy()
        values[2 * 4 + 1] = value
        at = table.column_names.index(column)
        pq.write_table(table.set_column(at, column, pa.FixedSizeListArray.from_arrays(pa.array(values), 4)), path)
        self.sign(made, path)
        with pytest.raises(BatchError, match=rf"series-000.parquet: {why}"):
            read(made)

    def test_a_series_less(self, made):
        path = made.folder / "series-000.parquet"
        pq.write_table(pq.read_table(path).slice(1), path)
        self.sign(made, path)
        with pytest.raises(BatchError, match=r"series-000.parquet has 6 series, should have 7"):
            read(made)

    @staticmethod
    def sign(made: Predictions, path: Path) -> None:
        said = made.said
        said["shards"][0]["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (made.folder / NAME).write_text(json.dumps(said))
