"""A trained model: its networks, what it was trained on, and the facts prediction needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from forecast_platform.deepar.features import Frequency
from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import Likelihood, get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, NetworkShape
from forecast_platform.deepar.series import SeriesSet, check_dynamic_feat
from forecast_platform.deepar.windows import Standardiser


@dataclass(eq=False)
class Model:
    """What `train` returns and an artifact holds.

    Attributes:
        hyperparameters: as given, "auto" not resolved.
        cardinality: categories per categorical feature, () when they are ignored.
        num_dynamic_feat: dynamic features used, 0 when they are ignored.
        lags: lags in steps, ascending.
        moments: standardisation of the log scale and the dynamic features.
        networks: one or more, on the CPU, in evaluation mode; path p of a forecast comes from network p % K.
        loss_curve: mean training loss per epoch, nats per observed cell in units of the scale; over the networks too.
        test_metrics: RMSE, mean_wQuantileLoss, ... when a test channel was given.
        train_windows, train_seconds: windows drawn and CPU seconds of the process; not part of the version.
    """

    hyperparameters: HyperParameters
    cardinality: tuple[int, ...]
    num_dynamic_feat: int
    lags: tuple[int, ...]
    moments: Standardiser
    networks: list[DeepARNetwork]
    loss_curve: list[float] = field(default_factory=list)
    test_metrics: dict[str, float] | None = None
    train_windows: int = 0
    train_seconds: float = 0.0

    @property
    def version(self) -> str:
        """Content hash of weights and configuration: "deepar-" and 16 hexadecimal digits."""
        from forecast_platform.deepar.artifact import content_version

        return content_version(self)

    @property
    def likelihood(self) -> Likelihood:
        return get_likelihood(self.hyperparameters.likelihood)

    def prepare(self, series: SeriesSet) -> SeriesSet:
        """The part of `series` the model uses, checked for prediction. Raises ContractError."""
        if not len(series):
            raise ContractError("there is no series to forecast")
        used = select_inputs(series, len(self.cardinality), self.num_dynamic_feat)
        self.likelihood.check_domain(used)
        check_dynamic_feat(used, self.hyperparameters.prediction_length, inference=True)
        if used.cat is not None:
            bad = (used.cat < 0) | (used.cat > np.asarray(self.cardinality))
            if bad.any():
                i, k = (int(v) for v in np.argwhere(bad)[0])
                raise ContractError(
                    f"{used.name(i)}: cat[{k}] is {int(used.cat[i, k])}; training saw 0 .. "
                    f"{self.cardinality[k] - 1}, and {self.cardinality[k]} stands for a category not seen"
                )
        return used


def network_shape(
    hp: HyperParameters, cardinality: tuple[int, ...], num_dynamic_feat: int, lags: tuple[int, ...]
) -> NetworkShape:
    """Sizes of each network these settings ask for."""
    family = get_likelihood(hp.likelihood)
    return NetworkShape(
        num_lags=len(lags),
        features=Frequency.parse(hp.time_freq).num_features + 1 + num_dynamic_feat,
        cardinality=cardinality,
        embedding_dimension=hp.embedding_dimension,
        num_cells=hp.num_cells,
        num_layers=hp.num_layers,
        num_outputs=family.num_outputs,
        skip_to=family.location if hp.lag_skip == "on" else None,
    )


def select_inputs(series: SeriesSet, num_cat: int, num_dynamic_feat: int) -> SeriesSet:
    """Drop what a model ignores; raise ContractError when something it needs is missing or differs."""
    for name, want, have in (
        ("categories", num_cat, series.num_cat),
        ("dynamic features", num_dynamic_feat, series.num_dynamic_feat),
    ):
        if want and want != have:
            raise ContractError(f"the model uses {want} {name} per series; this set has {have}")
    return SeriesSet(
        series.start,
        series.values,
        series.indptr,
        series.cat if num_cat else None,
        series.dynamic_feat if num_dynamic_feat else None,
        series.feat_indptr if num_dynamic_feat else None,
        series.labels,
    )
