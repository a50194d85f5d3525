"""Where the work runs as SageMaker jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecast_platform.engines.sagemaker.engine import SageMakerEngine
    from forecast_platform.settings import Settings


def engine_of(settings: Settings, **how: Any) -> SageMakerEngine:
    """The engine of the settings' image, Amazon's or our own.

    Args:
        how: sleep and now, see SageMakerEngine.
    """
    if settings.engine_name == "sagemaker-builtin":
        from forecast_platform.engines.sagemaker.builtin import BuiltinEngine

        return BuiltinEngine(settings, **how)
    from forecast_platform.engines.sagemaker.container.training import ContainerEngine

    return ContainerEngine(settings, **how)
