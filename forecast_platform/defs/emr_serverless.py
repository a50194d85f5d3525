"""Jobs of EMR Serverless by Dagster Pipes: what they log is in the run's log, and whoever ends the run ends the job."""

from typing import Any

import dagster as dg

from forecast_platform.engines.base import EngineError, Submit


def through_pipes(context: dg.AssetExecutionContext) -> Submit:
    """Runs a job to its end, see Engine.submit."""

    def submit(request: dict[str, Any]) -> None:
        from dagster_aws.pipes import PipesCloudWatchMessageReader, PipesEMRServerlessClient

        from forecast_platform.clouds.aws.clients import client

        reader = PipesCloudWatchMessageReader(client("logs"))
        try:
            PipesEMRServerlessClient(client("emr-serverless"), message_reader=reader).run(
                context=context, start_job_run_params=request
            )
        except RuntimeError as error:
            raise EngineError(f"{error}; the run's log has what EMR Serverless said of it") from error

    return submit
