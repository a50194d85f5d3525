"""Find or train the model for the newest complete week of what has landed, and print SageMaker's name of it.

    FORECAST_PROFILE=aws FORECAST_STORAGE_URL=... python -m forecast_platform.serverless

The training is a job on SageMaker, which is waited for here. What is printed is the Lambda's MODEL_NAME, alone; how it
goes is told on stderr. `make serverless-model` deploys it, too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import tempfile
from pathlib import Path

from forecast_platform.engines.sagemaker.container.training import ContainerEngine
from forecast_platform.serverless.pipeline import train
from forecast_platform.settings import get_settings

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        model = train(ContainerEngine(get_settings()), Path(folder), dt.datetime.now(dt.UTC))
    print(model)
