"""Training: from a set of series to a model, with checkpoints and SageMaker's log lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from forecast_platform.deepar import checkpoints
from forecast_platform.deepar.arithmetic import quiet_denormals
from forecast_platform.deepar.features import lags_for
from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.model import Model, network_shape, select_inputs
from forecast_platform.deepar.series import SeriesSet
from forecast_platform.deepar.training_data import check_training_data, forecast_starts
from forecast_platform.deepar.training_loop import TrainingLoop
from forecast_platform.deepar.windows import Standardiser, WindowSource

Progress = Callable[[int, int, dict[str, float]], None]
Log = Callable[[str], None]


def train(
    series: SeriesSet,
    hp: HyperParameters,
    test: SeriesSet | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    log: Log | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10,
) -> Model:
    """Train DeepAR. Same series, seed and machine give the same weights.

    Args:
        series: training series; those shorter than prediction_length are ignored.
        hp: hyperparameters.
        test: full series whose last prediction_length values are withheld and scored.
        device: torch device; the returned model is on the CPU.
        progress: called after each epoch with (epochs done, epochs, {"train_loss": ...}), over all networks.
        log: receives SageMaker's log lines.
        checkpoint: folder to save to every `checkpoint_every` epochs and to resume from; a resumed run
            ends in the same weights as an uninterrupted one.

    Raises:
        ContractError: the data or a checkpoint does not fit the contract.
    """
    began = time.process_time()
    say = log or (lambda line: None)
    cardinality, num_feat = check_training_data(series, hp)
    used = select_inputs(series, len(cardinality), num_feat)
    used = used.take(np.flatnonzero(used.lengths >= hp.prediction_length))
    # A lag that few windows have seen is a wild guess when it is there at the forecast.
    lags = lags_for(hp.time_freq, max(int(used.lengths.max()) - hp.lag_support, 2))
    moments = Standardiser.fit(used, use_features=num_feat > 0)
    source = WindowSource(
        used,
        time_freq=hp.time_freq,
        lags=lags,
        context=hp.context_length,
        horizon=hp.prediction_length,
        scaled=get_likelihood(hp.likelihood).scaled_input,
        moments=moments,
        scaling_length=hp.scaling_length,
        scaling_power=hp.scaling_power,
        time_features=hp.time_features == "auto",
        device=device,
    )
    first, last = forecast_starts(used, hp.prediction_length)
    if hp.training_windows == "last":
        first = last
    shape = network_shape(hp, cardinality, num_feat, lags)
    starts = torch.from_numpy(first), torch.from_numpy(last)
    if hp.blind_features > num_feat:
        raise ContractError(f"blind_features is {hp.blind_features}; the series have {num_feat} dynamic features")
    blind = [hp.blind_features if k % 2 == 0 else 0 for k in range(hp.num_networks)]
    loops = [TrainingLoop(hp, shape, hp.seed + k, source, *starts, b) for k, b in enumerate(blind)]
    identity = checkpoints.fingerprint(used, hp, lags)
    if checkpoint is not None and (saved := checkpoints.load(checkpoint, identity)) is not None:
        for k, loop in enumerate(loops):
            loop.restore(checkpoints.State(saved.under(f"{k}."), saved.numbers["networks"][k]))
    epochs = hp.num_networks * hp.epochs
    with quiet_denormals():
        for k, loop in enumerate(loops):
            while not loop.done:
                loss = loop.run_epoch()
                at = k * hp.epochs + loop.epoch
                say(f"#quality_metric: host=algo-1, epoch={at - 1}, train loss <loss>={loss:.10g}")
                say(f"#progress_metric: host=algo-1, completed {100 * at // epochs} % of epochs")
                if progress is not None:
                    progress(at, epochs, {"train_loss": loss})
                if checkpoint is not None and (loop.epoch % checkpoint_every == 0 or loop.epoch == hp.epochs):
                    checkpoints.save(checkpoint, identity, _state(loops))
    final = float(np.mean([loop.loss_curve[loop.final_epoch] for loop in loops]))
    say(f"Final loss: {final:.10g} (occurred at epoch {max(loop.final_epoch for loop in loops)})")
    say(f"#quality_metric: host=algo-1, train final_loss <loss>={final:.10g}")
    curve = _mean_curve([loop.loss_curve for loop in loops])
    model = Model(hp, cardinality, num_feat, lags, moments, [loop.finish() for loop in loops], curve)
    model.train_windows = sum(loop.windows for loop in loops)
    model.train_seconds = time.process_time() - began
    if test is not None:
        from forecast_platform.deepar.metrics import evaluate

        model.test_metrics = evaluate(model, test, device=device)
        for name, value in model.test_metrics.items():
            say(f"#test_score (algo-1, {name}): {value:.10g}")
        for name in ("RMSE", "mean_wQuantileLoss"):
            say(f"#quality_metric: host=algo-1, test {name} <loss>={model.test_metrics[name]:.10g}")
    return model


def _state(loops: list[TrainingLoop]) -> checkpoints.State:
    """All networks' states in one, each tensor under its network's number."""
    states = [loop.state() for loop in loops]
    tensors = {f"{k}.{name}": t for k, state in enumerate(states) for name, t in state.tensors.items()}
    return checkpoints.State(tensors, {"networks": [state.numbers for state in states]})


def _mean_curve(curves: list[list[float]]) -> list[float]:
    """Mean over the networks at each epoch; one that stopped early has no part in the epochs it did not run."""
    return [
        float(np.mean([curve[epoch] for curve in curves if epoch < len(curve)]))
        for epoch in range(max(len(curve) for curve in curves))
    ]
