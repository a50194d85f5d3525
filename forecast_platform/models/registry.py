"""All candidates by name, and which of them an installation tries."""

from __future__ import annotations

from collections.abc import Sequence

from forecast_platform.models.candidate import Candidate, Parameters, Plans
from forecast_platform.models.networks import COUNTS, NETWORKS, SHIPPED, SKIP
from forecast_platform.models.target import RATIO, SALES
from forecast_platform.models.trees import TREES
from forecast_platform.models.without_learning import WITHOUT_LEARNING
from forecast_platform.settings import Settings

_ALL: tuple[Candidate, ...] = (*NETWORKS, TREES, *WITHOUT_LEARNING)
CANDIDATES = {candidate.name: candidate for candidate in _ALL}
# Tried where the settings name none.
AUTO = (SALES, SKIP, COUNTS, RATIO, TREES.name, *(candidate.name for candidate in WITHOUT_LEARNING))


def in_order(plans: Plans) -> dict[str, Parameters]:
    """The same candidates in the order of CANDIDATES: those that learn first."""
    return {name: plans[name] for name in CANDIDATES if name in plans}


def plans(
    settings: Settings, prediction_length: int = 0, seed: int | None = None, only: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """The candidates that an installation's settings ask for, with their hyperparameters (strings, as SageMaker wants
    them).

    Args:
        prediction_length: weeks ahead; 0: by the settings.
        seed: None: by the settings.
        only: these candidates instead.
    """
    names: tuple[str, ...] = tuple(only) or (AUTO if settings.target == "auto" else (settings.target,))
    if "likelihood" in settings.hyperparameters and not only:
        names = tuple(name for name in names if name != COUNTS)  # it would be SALES again: the likelihood is all it has
    asked = {
        "prediction_length": str(prediction_length or settings.prediction_length),
        "seed": str(settings.seed if seed is None else seed),
    }
    own = {"context_length": str(settings.context_length)} if settings.context_length else {}
    of_networks = {"time_freq": "1W", **asked, **own, **settings.hyperparameters}
    return {name: {**CANDIDATES[name].parameters, **(of_networks if name in SHIPPED else asked)} for name in names}
