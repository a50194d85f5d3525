"""The network that ships trained: made again by its command, the same in any company, and right about retailers that it
has not seen."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import over_shards
from forecast_platform.models.backtest import QUANTILES, backtest
from forecast_platform.models.last_year.outlook import aligned_last_year
from forecast_platform.models.pretrained import network, train
from forecast_platform.models.pretrained.made_up import AHEAD, LONGEST, SHORTEST, make_up
from forecast_platform.models.pretrained.network import Ensemble, Inputs, quantiles_of, shipped
from forecast_platform.models.without_learning import pretrained

UNSEEN = 1_000_000  # retailers from this number on are in no training


def history_of(number: int) -> Panel:
    panel, known = make_up(np.random.default_rng(number))
    return panel.until(panel.weeks[known - 1].astype(dt.date))


@pytest.fixture(scope="module")
def several() -> Panel:
    """A retailer of several stores and departments."""
    return next(h for k in range(UNSEEN, UNSEEN + 100) if 9 <= len(h := history_of(k)) <= 20)


def test_the_command_makes_the_same_file_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        torch.rand(3)  # whatever else has drawn
        assert train.main(["--retailers", "3", "--out", str(file)]) == 0
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert hashlib.sha256(one).hexdigest() in capsys.readouterr().out
    made = Ensemble.from_bytes(one)
    assert [layer[0].shape for layer in made.members[0]] == [layer[0].shape for layer in shipped().members[0]]
    assert len(made.members) == len(shipped().members)
    assert made.to_bytes() == one


def test_weights_of_another_release_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "weights"
    other.write_bytes(network.WEIGHTS.read_bytes()[:-1] + b"\1")
    monkeypatch.setattr(network, "WEIGHTS", other)
    with pytest.raises(ValueError, match="is not the file of this release"):
        shipped.__wrapped__()


def test_what_forecasts_is_what_was_trained() -> None:
    """numpy without BLAS against torch, on inputs of a retailer."""
    cases = train.cases_of(UNSEEN)
    assert cases is not None
    made = train.train(cases, members=1, epochs=1)
    x = np.clip((cases.inputs - made.mean) / made.std, -network.FARTHEST, network.FARTHEST)
    out = torch.from_numpy(x)
    for weight, bias in made.members[0][:-1]:
        out = torch.nn.functional.silu(out @ torch.from_numpy(weight).double() + torch.from_numpy(bias).double())
    weight, bias = made.members[0][-1]
    raw = out @ torch.from_numpy(weight).double() + torch.from_numpy(bias).double()
    want = train.torch_quantiles(raw).numpy()
    np.testing.assert_allclose(quantiles_of(raw.numpy()), want, atol=1e-12)
    shown, none = np.asarray(cases.inputs, dtype=np.float64), np.zeros((len(x), 1))
    series = Inputs.of(history_of(UNSEEN), 1).series.shape[1]
    found = made.forecast(Inputs(shown[:, :series], shown[:, None, series:], none, none + 1))
    np.testing.assert_allclose(found[:, :, 0], want, atol=1e-9)


def test_a_series_is_forecast_the_same_in_any_shard(several: Panel) -> None:
    whole = pretrained(several, 9, QUANTILES)
    for parts in (2, 5):
        part = np.arange(len(several)) * parts // len(several)
        shards = [several.select(part == k) for k in range(parts)]
        found = list(over_shards(shards, lambda panel, retailer: pretrained(panel, 9, QUANTILES, retailer)))
        np.testing.assert_array_equal(np.concatenate(found), whole)


def test_the_unit_of_sales_does_not_matter(several: Panel) -> None:
    large = dataclasses.replace(several, sales=several.sales * 2.0**6)
    np.testing.assert_allclose(pretrained(large, 9, QUANTILES), pretrained(several, 9, QUANTILES) * 2.0**6, rtol=1e-6)


def test_quantiles_between_levels_ascend(several: Panel) -> None:
    found = pretrained(several, 12, (0.005, 0.033, 0.5, 0.52, 0.999))
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= 0).all()


@pytest.mark.parametrize("weeks", [56, 57, 60, 104, 105])
def test_the_shortest_history_and_few_sales_will_do(weeks: int) -> None:
    sales = np.full((2, weeks), 10.0)
    sales[1] = np.nan
    sales[1, -1] = 3.0
    panel = Panel(np.array(["1", "1"]), np.array(["1", "2"]), np.datetime64("2021-01-01") + 7 * np.arange(weeks), sales)
    found = pretrained(panel, 46, QUANTILES)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, 4], 10.0, rtol=0.05)  # always the same
    assert (found[0, 8] - found[0, 0] < 3).all()


def test_retailers_are_of_many_kinds() -> None:
    drawn = [make_up(np.random.default_rng(k)) for k in range(UNSEEN, UNSEEN + 25)]
    for panel, known in drawn:
        assert SHORTEST <= known <= LONGEST
        assert len(panel.weeks) == known + AHEAD
        assert (np.nan_to_num(panel.sales[:, :known]) > 0).any(axis=1).all()
        assert len({*zip(panel.store.tolist(), panel.dept.tolist(), strict=True)}) == len(panel)
    assert min(len(panel) for panel, _ in drawn) <= 3
    assert max(len(panel) for panel, _ in drawn) >= 50
    again, _ = make_up(np.random.default_rng(UNSEEN))
    np.testing.assert_array_equal(again.sales, drawn[0][0].sales)


def test_it_beats_the_outlook_on_retailers_never_seen() -> None:
    gain, held = [], []
    for number in range(UNSEEN, UNSEEN + 16):
        panel, known = make_up(np.random.default_rng(number))
        if len(panel) > 20:
            continue
        cutoff = panel.weeks[known - 1].astype(dt.date)
        models = {"pretrained": pretrained, "aligned": aligned_last_year}
        ours, aligned = (r.scores for r in backtest(panel, [cutoff], 12, models, min_weeks=4))
        gain.append(np.log(ours.wql / aligned.wql))
        held.append(ours.coverage80)
    assert np.exp(np.mean(gain)) < 0.95
    assert 0.7 < np.mean(held) < 0.88
