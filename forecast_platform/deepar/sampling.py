"""Forecasts of a set of series, or of a file of them (batch transform), by ancestral sampling: the network reads the
context once per series, then takes H steps over all sample paths.

Everything that does not depend on the sampled path (calendar, static features, lags that reach behind the cutoff) is
projected beforehand per series and broadcast over paths. A step then costs the recurrent product, the few lags that a
path's own draws fill, the cell and the draw. Dimension letters as in network.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecast_platform.deepar.artifact import Model
from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.deepar.network import DeepARNetwork, large_products, lstm_step, quiet_denormals
from forecast_platform.deepar.randomness import keys_apart, series_keys, uniforms
from forecast_platform.deepar.records import read_records, write_lines
from forecast_platform.deepar.series import SeriesSet
from forecast_platform.deepar.windows import WindowBatch, WindowSource

DEFAULT_QUANTILES = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")
OUTPUT_TYPES = ("mean", "quantiles", "samples")
# Columns come in whole blocks of this size. Matrix kernels compute the last columns of an incomplete block in another
# way; with whole blocks a series gets the same bits wherever in a batch it stands.
BLOCK = 64
DECODE_COLUMNS = 3200  # paths decoded together: more would not fit in the cache, fewer would need more calls
TRANSFORMED_AT_ONCE = 4000  # series forecast and written: bounds memory when samples are asked for

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Forecast:
    """Forecasts of N series over H steps; what was not asked for is None.

    mean (N, H), quantiles (N, Q, H) and samples (N, S, H), float32, in the target's units. quantile_levels
    are the Q labels as asked for.
    """

    mean: Floats | None
    quantiles: Floats | None
    samples: Floats | None
    quantile_levels: tuple[str, ...]


def predict(
    model: Model,
    series: SeriesSet,
    num_samples: int = 100,
    quantiles: Sequence[str] = DEFAULT_QUANTILES,
    seed: int = 0,
    output_types: Sequence[str] = ("mean", "quantiles"),
    batch_series: int = 512,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Forecast:
    """Forecast the prediction_length steps after each series.

    A series' paths depend on its own content, `seed` and `num_samples` alone, never on the other series, their order
    or `batch_series` (series encoded together). Two identical series get identical paths. The paths of a series spread
    evenly over its distribution (randomness.uniforms): quantiles of 50 are as good as those of 100 independent ones.
    Quantiles interpolate linearly between the ordered samples (Hazen). `progress` receives (series done, all series).
    Beyond SageMaker: a category equal to its cardinality stands for one that training did not see, and takes the mean
    embedding; of K networks, network p % K draws path p.

    Raises:
        ContractError: series or arguments the model can't serve.
    """
    levels = check_request(num_samples, quantiles, output_types)
    used = model.prepare(series)
    n, horizon = len(used), model.hyperparameters.prediction_length
    mean = np.empty((n, horizon), np.float32) if "mean" in output_types else None
    quant = np.empty((n, len(levels), horizon), np.float32) if "quantiles" in output_types else None
    samples = np.empty((n, num_samples, horizon), np.float32) if "samples" in output_types else None
    keys = series_keys(used, seed)
    networks = [network.to(device).eval() for network in model.networks[:num_samples]]
    chunk = _chunk(model, -(-num_samples // len(networks)))
    try:
        with torch.no_grad(), quiet_denormals():
            decoders = [_Decoder(model, k, net, num_samples, chunk, device) for k, net in enumerate(networks)]
            for low in range(0, n, batch_series):
                at = np.arange(low, min(low + batch_series, n))
                batch = _windows(model, used.take(at), batch_series, device)
                encoded = [decoder.encode(batch) for decoder in decoders]
                for first in range(0, len(at), chunk):
                    part = at[first : first + chunk]
                    paths = np.empty((horizon, len(part), num_samples), np.float32)
                    for k, decoder in enumerate(decoders):
                        paths[:, :, k :: len(decoders)] = decoder.decode(encoded[k], first, keys[part])
                    if mean is not None:
                        mean[part] = paths.mean(axis=2, dtype=np.float64).T
                    if samples is not None:
                        samples[part] = paths.transpose(1, 2, 0)
                    if quant is not None:
                        quant[part] = _quantiles(paths, levels)
                if progress is not None:
                    progress(int(at[-1]) + 1, n)
    finally:
        for network in networks:
            network.to("cpu")
    return Forecast(mean, quant, samples, tuple(quantiles))


def check_request(num_samples: int, quantiles: Sequence[str], output_types: Sequence[str]) -> list[float]:
    """The quantile levels as numbers. Raises ContractError on a bad request."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or not 1 <= num_samples <= 100_000:
        raise ContractError(f"num_samples is {num_samples!r}; give a whole number from 1 to 100000")
    unknown = [t for t in output_types if t not in OUTPUT_TYPES]
    if unknown or not output_types:
        raise ContractError(f"output_types is {list(output_types)}; use one or more of {', '.join(OUTPUT_TYPES)}")
    levels = []
    for q in quantiles:
        try:
            level = float(q)
        except (TypeError, ValueError):
            level = -1.0
        if not 0.0 < level < 1.0:
            raise ContractError(f'quantile {q!r} is not a number above 0 and below 1, such as "0.9"')
        levels.append(level)
    return levels


def _chunk(model: Model, paths: int) -> int:
    """How many series are decoded together, at `paths` paths each."""
    drawn = paths if model.likelihood.num_uniforms else 1
    return max(1, DECODE_COLUMNS // drawn)


def _windows(model: Model, series: SeriesSet, size: int, device: str) -> WindowBatch:
    """One window of context and horizon per series, filled up with copies of the first series.

    The batch has at least `size` columns. So matrix products have the same shape whatever the number of series, and a
    series' forecast is the same to the last digit whichever other series are forecast with it.
    """
    hp, count = model.hyperparameters, len(series)
    source = WindowSource(
        series,
        time_freq=hp.time_freq,
        lags=model.lags,
        context=hp.context_length,
        horizon=hp.prediction_length,
        scaled=model.likelihood.scaled_input,
        moments=model.moments,
        scaling_length=hp.scaling_length,
        time_features=hp.time_features == "auto",
        device=device,
    )
    which = np.zeros(-(-max(size, count) // BLOCK) * BLOCK, dtype=np.int64)
    which[:count] = np.arange(count)
    ends = torch.from_numpy(series.lengths[which]).to(source.device)
    batch = source.windows(torch.from_numpy(which).to(source.device), ends)
    for i, lag in enumerate(_own_lags(model)):
        batch.varying[hp.context_length + lag :, len(model.lags) + i] = 1.0  # a path's own draws count as observed
    return batch


def _own_lags(model: Model) -> list[int]:
    """The lags below H, the first of the model's: within the forecast a path's own draws fill them."""
    return [lag for lag in model.lags if lag < model.hyperparameters.prediction_length]


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Series after their context and first forecast step.

    pre (H - 1, 4N, B) are the first layer's projected inputs of the later steps, states (h, c) of each layer, scale
    (B,). skip (H, B) is what the known lags add to the location, None without lag_skip.
    """

    pre: Tensor
    states: list[tuple[Tensor, Tensor]]
    scale: Tensor
    skip: Tensor | None


class _Decoder:
    """One network's fused weights and buffers, for decoding chunks of `chunk` series times its share of S paths.

    The buffer `rows` is laid out so that each layer reads one contiguous block: the lags that a path's own draws fill,
    h of layer 1, a row of ones, h of layer 2, ones, ... The ones carry the biases into the product.
    """

    def __init__(
        self, model: Model, number: int, network: DeepARNetwork, num_samples: int, chunk: int, device: str
    ) -> None:
        self.model, self.net, self.chunk, self.device = model, network, chunk, device
        net, hp = network, model.hyperparameters
        self.family = model.likelihood
        self.number = number
        share = len(range(number, num_samples, len(model.networks)))
        self.paths = share if self.family.num_uniforms else 1
        own_lags = _own_lags(model)
        k, n, layers = len(own_lags), hp.num_cells, hp.num_layers
        self.used = self.chunk * self.paths
        columns = -(-self.used // BLOCK) * BLOCK
        self.rows = torch.ones(k + layers * (n + 1), columns, device=device)
        self.lags = self.rows[:k]
        tops = [k + i * (n + 1) for i in range(layers)]
        self.h = [self.rows[top : top + n] for top in tops]
        self.c = [torch.zeros(n, columns, device=device) for _ in range(layers)]
        self.gates = torch.empty(4 * n, columns, device=device)
        self.large = large_products(self.gates.device)
        self.weights = [torch.cat([net.w_in[0][:, :k], net.w_rec[0]], 1)]
        self.inputs = [self.rows[: k + n]]
        for layer in range(1, layers):
            blocks = [net.w_in[layer], net.bias[layer][:, None], net.w_rec[layer]]
            self.weights.append(torch.cat(blocks, 1))
            self.inputs.append(self.rows[tops[layer - 1] : tops[layer] + n])
        self.w_out = torch.cat([net.w_out, net.b_out[:, None]], 1)
        self.top = self.rows[tops[-1] :]
        self.raw = torch.empty(net.shape.num_outputs, columns, device=device)
        # the draws, after zeros for lags that still reach behind the cutoff: `pre` holds the share of those
        before = max(own_lags, default=0)
        self.history = torch.zeros(before + hp.prediction_length, columns, device=device)
        lags = torch.tensor(own_lags, device=device, dtype=torch.long)
        self.lag_rows = [before + step - lags for step in range(hp.prediction_length)]
        self.z = self.history[before:]
        self.draws = self.z if self.family.scaled_output else torch.zeros_like(self.z)
        self.scale = torch.ones(columns, device=device)
        self.base = [torch.full_like(self.z, 0.5) for _ in self.family.prepare(torch.ones(2, 0))]
        self.by_step = [([each[step] for each in self.base], draws) for step, draws in enumerate(self.draws)]

    def encode(self, batch: WindowBatch) -> _Encoded:
        """Run the context and the first forecast step, which depend on no path, once per series."""
        context, net = self.model.hyperparameters.context_length, self.net
        static = net.static_features(batch.log_scale, batch.cat)
        states = net.encode(batch.varying[: context + 1], static)
        pre = net.project_first(batch.varying[context + 1 :], static)
        skip = None if net.shape.skip_to is None else net.skip(batch.varying[context:])
        return _Encoded(pre, states, batch.scale, skip)

    def decode(self, encoded: _Encoded, first: int, keys: NDArray[np.uint64]) -> Floats:
        """Sample series first .. first + len(keys): (H, b, own paths) in the target's units.

        Columns beyond those of the series keep old values, which nobody reads.
        """
        count, paths, horizon = len(keys), self.paths, self.z.shape[0]
        family, some = self.family, slice(first, first + len(keys))
        self._each_path(self.scale[None])[0, :count] = encoded.scale[some, None]
        if family.num_uniforms:
            u = uniforms(keys_apart(keys, self.number), horizon, paths, family.num_uniforms)
            for into, variates in zip(self.base, family.prepare(torch.from_numpy(u).to(self.device)), strict=True):
                self._each_path(into)[:, :count] = variates
        for layer, (h, c) in enumerate(encoded.states):
            self._each_path(self.h[layer])[:, :count] = h[:, some, None]
            self._each_path(self.c[layer])[:, :count] = c[:, some, None]
        pre = encoded.pre[:, :, some].contiguous()
        for step in range(horizon):
            torch.index_select(self.history, 0, self.lag_rows[step], out=self.lags)
            if step:
                for layer, h in enumerate(self.h):
                    with self.large:
                        torch.mm(self.weights[layer], self.inputs[layer], out=self.gates)
                    lstm_step(self.gates, pre[step - 1] if layer == 0 else None, paths, self.c[layer], h)
            torch.mm(self.w_out, self.top, out=self.raw)
            if encoded.skip is not None and self.net.shape.skip_to is not None:
                self._add_skip(encoded.skip[step, some], self.net.shape.skip_to)
            base, draws = self.by_step[step]
            family.draw(self.raw, self.scale, base, draws)
            if not family.scaled_output:
                torch.div(draws, self.scale, out=self.z[step])
        out = self.draws * self.scale if family.scaled_output else self.draws
        sampled: Floats = self._each_path(out)[:, :count].cpu().numpy()
        return sampled

    def _each_path(self, wide: Tensor) -> Tensor:
        """(R, columns) seen as (R, chunk, paths)."""
        return wide[:, : self.used].view(-1, self.chunk, self.paths)

    def _add_skip(self, known: Tensor, row: int) -> None:
        """Add the skip connection to the location: `known` (b,) from known lags, the rest from a path's own draws."""
        location = self.raw[row : row + 1].addmm_(self.net.w_skip[:, : len(self.lags)], self.lags)
        self._each_path(location)[:, : len(known)].add_(known[:, None])


def _quantiles(paths: Floats, levels: list[float]) -> Floats:
    """(H, b, S) to (b, Q, H): linear interpolation between order statistics. Sorts `paths` in place.

    The k-th of S sorted values is the quantile of level (k - 0.5) / S, the middle of its share (Hazen 1914). Levels of
    (k - 1) / (S - 1), from 0 to 1, would narrow every interval, at 50 paths by 3%.
    """
    paths.sort(axis=2)
    last = paths.shape[2] - 1
    position = (np.asarray(levels) * paths.shape[2] - 0.5).clip(0, last)
    low = np.floor(position).astype(np.int64)
    part = (position - low).astype(np.float32)
    below = paths[:, :, low]
    out: Floats = (below + (paths[:, :, np.minimum(low + 1, last)] - below) * part).transpose(1, 2, 0)
    return out


@dataclass(frozen=True)
class InferenceConfig:
    """The shape and defaults of DEEPAR_INFERENCE_CONFIG."""

    num_samples: int = 100
    output_types: tuple[str, ...] = ("mean", "quantiles")
    quantiles: tuple[str, ...] = DEFAULT_QUANTILES

    @classmethod
    def parse(cls, config: Mapping[str, Any] | None) -> InferenceConfig:
        """Raises ContractError for unknown keys and bad values."""
        given = dict(config or {})
        unknown = set(given) - {"num_samples", "output_types", "quantiles"}
        if unknown:
            raise ContractError(
                f"the inference configuration has {sorted(unknown)[0]!r}; "
                "it takes num_samples, output_types and quantiles"
            )
        for name in ("output_types", "quantiles"):
            if name in given and not isinstance(given[name], (list, tuple)):
                raise ContractError(f"{name} is {given[name]!r}; it must be an array")
        out = cls(
            given.get("num_samples", 100),
            tuple(given.get("output_types", cls.output_types)),
            tuple(str(q) for q in given.get("quantiles", DEFAULT_QUANTILES)),
        )
        check_request(out.num_samples, out.quantiles, out.output_types)
        return out


def transform(
    model: Model,
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Forecast every line of `input_path` into `output_path`; returns the number of lines.

    Every line is checked before anything is forecast, and the output takes its name only when it is whole.
    Raises ContractError naming the line and rule; then nothing is written.
    """
    wanted = InferenceConfig.parse(config)
    series = model.prepare(read_records(input_path, model.hyperparameters.time_freq))
    lines = predictions(model, series, wanted, seed, device)
    return write_lines((orjson.dumps(p, option=orjson.OPT_SERIALIZE_NUMPY) for p in lines), Path(output_path))


def predictions(
    model: Model, series: SeriesSet, config: InferenceConfig, seed: int = 0, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """The response objects of `series`, in order: {"mean": .., "quantiles": {"0.1": ..}, "samples": ..}."""
    for low in range(0, len(series), TRANSFORMED_AT_ONCE):
        part = series.take(range(low, min(low + TRANSFORMED_AT_ONCE, len(series))))
        forecast = predict(model, part, config.num_samples, config.quantiles, seed, config.output_types, device=device)
        for i in range(len(part)):
            out: dict[str, Any] = {}
            if forecast.mean is not None:
                out["mean"] = forecast.mean[i]
            if forecast.quantiles is not None:
                out["quantiles"] = dict(zip(config.quantiles, forecast.quantiles[i], strict=True))
            if forecast.samples is not None:
                out["samples"] = forecast.samples[i]
            yield out
