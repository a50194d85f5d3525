"""A shard as a request to our image, and its answer: the files that a worker of LocalEngine reads and leaves, as a zip.

| request | |
|---|---|
| asked.json | what is asked, the shard's number, whether there are others, and the code_version of who asks |
| panel.npz | the series, see history/panel_file.py |
| sums/000.npz .. | the sums of all shards that forecasting this one asks for, round by round |

| answer | |
|---|---|
| shard-000.json | the shard's entry for predictions.json: counts, and hashes of its files |
| series-000.parquet, sums-000.parquet | see engines/predictions.py |

Sample paths stay where they are drawn.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.engines.base import Asked, Shard, Work, opened
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.history.panel_file import NAME as PANEL
from forecast_platform.history.panel_file import PanelFileError, save_panel
from forecast_platform.history.shards import Retailer, Rounds
from forecast_platform.models.trained import TrainedModel, code_version

BUNDLE = "platform.tar.gz"  # a whole model, as SageMaker unpacks it for the image
LARGEST = 5_000_000  # bytes of a request's arrays; with its sums, and compressed, at most 6 MB are sent at once


def series_of_a_request(weeks: int, columns: int) -> int:
    """How many series one request may hold."""
    return max(LARGEST // (9 * weeks + 8 * columns * (weeks + 12)), 1)


def bundle(model: TrainedModel, path: Path) -> None:
    """Pack a model for the image. Equal models are equal bytes."""
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("training.json", *model.files):
            item = tarfile.TarInfo(name)
            data = (model.folder / name).read_bytes()
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))


def request_of(shard: Shard, number: int, sums: Path | None, asked: Asked) -> bytes:
    """What our image is sent.

    Args:
        sums: folder of the sums of all shards; None: it is the only one.
    """
    header = {**dataclasses.asdict(asked), "number": number, "alone": sums is None, "code": code_version()}
    with tempfile.TemporaryDirectory() as name:
        panel = shard / PANEL if isinstance(shard, Path) else save_panel(opened(shard), Path(name))
        files = {"asked.json": json.dumps(header, sort_keys=True).encode(), PANEL: panel.read_bytes()}
    rounds = sorted(sums.glob("[0-9]*.npz")) if sums else []
    return _zipped(files | {f"sums/{path.name}": path.read_bytes() for path in rounds})


def write_requests(
    model: TrainedModel, shards: Sequence[tuple[int, Shard]], sums: Path | None, asked: Asked, folder: Path
) -> tuple[str, int]:
    """What our image is sent, as files shard-000.zip .. of a folder.

    Args:
        sums: see `request_of`.

    Returns:
        The digest of all that decides the answers, and the bytes of the largest request.
    """
    content, largest = hashlib.sha256(model.digest.encode()), 0
    folder.mkdir()
    for number, shard in shards:
        body = request_of(shard, number, sums, asked)
        content.update(hashlib.sha256(body).digest())
        largest = max(largest, len(body))
        (folder / f"shard-{number:03d}.zip").write_bytes(body)
    return content.hexdigest()[:20], largest


def opened_request(body: bytes, folder: Path) -> dict[str, Any]:
    """Put a request's files into a folder; returns what asked.json says.

    Raises:
        ContractError: it is damaged.
    """
    try:
        files = _unzipped(body)
        said: dict[str, Any] = json.loads(files.pop("asked.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ContractError(f"the request is no shard: {error}") from error
    for file, data in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(data)
    return said


def answer_to(model: TrainedModel, body: bytes) -> bytes:
    """What our image answers.

    Raises:
        ContractError: the request is damaged, or comes from other code; ValueError: a covariate is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = opened_request(body, folder)
        if header["code"] != code_version():
            raise ContractError("the request comes from other code than the image's; build the image anew: make image")
        asked = Asked(tuple(header["quantiles"]), header["num_samples"], header["seed"], header["as_known"])
        retailer = Retailer() if header["alone"] else Retailer(Rounds.at(folder / "sums"))
        made = folder / "made"
        made.mkdir()
        try:
            Work(model, asked, made)((header["number"], folder), retailer)
        except PanelFileError as error:
            raise ContractError(str(error)) from error
        return _zipped({path.name: path.read_bytes() for path in sorted(made.iterdir())})


def received(path: Path, building: Path, number: int, series: int) -> dict[str, Any]:
    """Bring an answer's files to a folder of predictions; returns the shard's entry for predictions.json.

    Raises:
        BatchError: it is damaged, or of another shard.
    """
    try:
        files = _unzipped(path.read_bytes())
        entry: dict[str, Any] = json.loads(files[f"shard-{number:03d}.json"])
        for name, data in files.items():
            (building / name).write_bytes(data)
        Predictions(building).check_files(entry)
        if entry["series"] != series:
            raise BatchError(f"it is of {entry['series']} series, should be of {series}")
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, BatchError) as error:
        raise BatchError(f"{path} is not the answer of its shard ({error}); run batch_predictions again") from error
    return entry


def _zipped(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without a time of its own
    return data.getvalue()


def _unzipped(data: bytes) -> dict[str, bytes]:
    """The files of a zip. Raises zipfile.BadZipFile, or ValueError for a name that leads elsewhere."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if odd := [n for n in names if n.removeprefix("sums/") != Path(n).name or Path(n).name in ("", ".", "..")]:
            raise ValueError(f"it holds {odd[0]!r}")
        return {name: archive.read(name) for name in names}
