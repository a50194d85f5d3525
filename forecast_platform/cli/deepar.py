"""`forecast deepar`: the engine alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from forecast_platform.cli.terminal import Bar, pair

_EXISTING = click.Path(exists=True, path_type=Path)


@click.group("deepar")
def deepar_group() -> None:
    """The engine alone, under SageMaker's DeepAR contract: JSON Lines in, model.tar.gz, JSON Lines out."""


@deepar_group.command()
@click.option("--train", "train_path", required=True, type=_EXISTING, help="file or folder")
@click.option("--test", "test_path", type=_EXISTING, help="file or folder, scored")
@click.option("--hyperparameters", "file", type=_EXISTING, help="JSON object of strings")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="wins over the file")
@click.option("--model", "model_path", default=Path("model.tar.gz"), show_default=True, type=click.Path(path_type=Path))
def train(
    train_path: Path, test_path: Path | None, file: Path | None, parameters: tuple[str, ...], model_path: Path
) -> None:
    """Train on JSON Lines (or Parquet) records and write model.tar.gz."""
    from forecast_platform import deepar

    values = json.loads(file.read_text()) if file else {}
    hp = deepar.HyperParameters.parse({**values, **dict(pair(p) for p in parameters)})
    series = deepar.read_records(train_path, time_freq=hp.time_freq)
    test = deepar.read_records(test_path, time_freq=hp.time_freq) if test_path else None
    watched = sys.stderr.isatty()
    with Bar() as show:
        model = deepar.train(
            series,
            hp,
            test=test,
            progress=(lambda done, total, _: show("train", done, total)) if watched else None,
            log=None if watched else lambda line: click.echo(line, err=True),
        )
    version = deepar.save_artifact(model, model_path)
    click.echo(f"{model_path}: model {version}, final loss {min(model.loss_curve):.4f}")
    if model.test_metrics:
        click.echo(json.dumps(model.test_metrics, indent=1))


@deepar_group.command()
@click.argument("input_path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output_path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", "model_path", default=Path("model.tar.gz"), show_default=True, type=_EXISTING)
@click.option("--config", default="", help='DEEPAR_INFERENCE_CONFIG, e.g. {"num_samples": 50, "quantiles": ["0.5"]}')
@click.option("--seed", default=0, show_default=True)
def predict(input_path: Path, output_path: Path, model_path: Path, config: str, seed: int) -> None:
    """Forecast every line of INPUT_PATH, one JSON object a line, in the same order."""
    from forecast_platform import deepar

    model = deepar.load_artifact(model_path)
    lines = deepar.transform(model, input_path, output_path, json.loads(config) if config else None, seed=seed)
    click.echo(f"{output_path}: {lines:,} forecasts")


@deepar_group.command()
@click.option("--model", "model_path", default=Path("model.tar.gz"), show_default=True, type=_EXISTING)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def serve(model_path: Path, host: str, port: int) -> None:
    """Answer SageMaker's requests (/ping, /invocations) with a model, as our image does in Batch Transform.

    The environment says how, as there: DEEPAR_INFERENCE_CONFIG, DEEPAR_SEED, MODEL_SERVER_WORKERS.
    """
    from forecast_platform.engines.sagemaker.container.serving import serve as serve_model

    sys.exit(serve_model(model_path, host, port))
