"""A trained model, and its archive model.tar.gz: safetensors and JSON, its version a hash of its content, which is
checked when it is read back.

SageMaker packs and unpacks the archive itself. So wherever a path to an archive is taken, a folder of its two members
serves as well, and so does an archive packed from a folder, whose member names begin with "./".

The archive holds `model.json` (schema version, hyperparameters, cardinality, lags, moments, losses, the weights'
SHA-256 and the version) and `model.safetensors`; with several networks each tensor's name begins with its network's
number. Equal models give equal bytes: members are sorted and carry no time, owner or mode of their own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from forecast_platform.deepar.hyperparameters import EXTENSIONS, ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import Likelihood, get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, NetworkShape
from forecast_platform.deepar.series import Frequency, SeriesSet, check_dynamic_feat
from forecast_platform.deepar.windows import Standardiser

SCHEMA = 1
_CONFIG, _WEIGHTS = "model.json", "model.safetensors"
_LATER = ("num_networks", "lag_skip", "blind_features", "training_windows")  # settings added after the first models
# A setting that was removed is still written, so that models keep their version. A model with another value is refused.
_GONE = {"scaling_power": "1.0"}
_MAX_MEMBER = 1 << 30  # a model is far below this; an archive that claims more is refused unread


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
        loss_curve: mean training loss per epoch, nats per observed cell in units of the scale; the networks' mean.
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


def content_version(model: Model) -> str:
    """ "deepar-" and the first 16 hexadecimal digits of the SHA-256 over weights and configuration."""
    return _version(_content(model), _weights(model))


def save_artifact(model: Model, path: str | os.PathLike[str]) -> str:
    """Write model.tar.gz to `path`, or its members where that is a folder; return the version.

    A file appears whole or not at all. In a folder model.json, which holds the weights' hash, is written last.
    """
    weights, content = _weights(model), _content(model)
    version = _version(content, weights)
    config = {**content, "schema": SCHEMA, "version": version, "weights_sha256": _sha(weights)}
    text = json.dumps(config, sort_keys=True, indent=1, allow_nan=False).encode()
    target = Path(path)
    if target.is_dir():
        _write(target / _WEIGHTS, weights)
        _write(target / _CONFIG, text)
        return version
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted({_CONFIG: text, _WEIGHTS: weights}.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as gz:
        gz.write(raw.getvalue())
    _write(target, packed.getvalue())
    return version


def _write(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load_artifact(path: str | os.PathLike[str]) -> Model:
    """Read a model back from its archive, or the folder of its members.

    Raises ContractError for anything but an intact artifact of this schema.
    """
    source = Path(path)
    members = _read_folder(source) if source.is_dir() else _read_members(source)
    try:
        config: dict[str, Any] = json.loads(members[_CONFIG])
        schema = config["schema"]
        if schema != SCHEMA:
            raise ContractError(f"{path}: the artifact has schema {schema}; this code reads schema {SCHEMA}")
        stated = config["weights_sha256"]
        actual = _sha(members[_WEIGHTS])
        if actual != stated:
            raise ContractError(f"{path}: the weights hash to {actual[:12]}, the artifact states {str(stated)[:12]}")
        content = {k: v for k, v in config.items() if k not in ("schema", "version", "weights_sha256")}
        actual = _version(content, members[_WEIGHTS])
        if actual != config["version"]:
            raise ContractError(f"{path}: the content is {actual}, the artifact says {config['version']}")
        return build(content, load_tensors(members[_WEIGHTS]))
    except ContractError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, SafetensorError) as e:
        raise ContractError(f"{path} is not a model artifact of this package: {e}") from e


def _content(model: Model) -> dict[str, Any]:
    moments, given = model.moments, model.hyperparameters.to_strings()
    # Left out at their defaults, so that models from before they existed keep their version.
    settings = {k: v for k, v in given.items() if k not in _LATER or v != EXTENSIONS[k]}
    return {
        "hyperparameters": settings | _GONE,
        "cardinality": list(model.cardinality),
        "num_dynamic_feat": model.num_dynamic_feat,
        "lags": list(model.lags),
        "moments": {
            "log_scale_mean": moments.log_scale_mean,
            "log_scale_std": moments.log_scale_std,
            "feat_mean": moments.feat_mean.tolist(),
            "feat_std": moments.feat_std.tolist(),
        },
        "loss_curve": model.loss_curve,
        "test_metrics": _finite(model.test_metrics),
        "train_windows": model.train_windows,
    }


def _finite(metrics: dict[str, float] | None) -> dict[str, float | None] | None:
    # wQL of an all-zero test set is undefined, and JSON has no NaN
    if metrics is None:
        return None
    return {k: v if np.isfinite(v) else None for k, v in metrics.items()}


def _weights(model: Model) -> bytes:
    named = _stack(model.networks).state_dict()
    tensors = {k: v.detach().cpu().contiguous() for k, v in named.items()}
    return bytes(save_tensors(dict(sorted(tensors.items()))))


def _stack(networks: list[DeepARNetwork]) -> nn.Module:
    """The module whose state_dict names the tensors: a network's own names, after its number if there are several."""
    return networks[0] if len(networks) == 1 else nn.ModuleList(networks)


def build(content: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    """The model of what model.json says, and of its weights by name."""
    given: dict[str, str] = content["hyperparameters"]
    hp = HyperParameters.parse({k: v for k, v in given.items() if _GONE.get(k) != v})
    m = content["moments"]
    moments = Standardiser(
        float(m["log_scale_mean"]),
        float(m["log_scale_std"]),
        np.asarray(m["feat_mean"], dtype=np.float32),
        np.asarray(m["feat_std"], dtype=np.float32),
    )
    cardinality, lags = tuple(content["cardinality"]), tuple(content["lags"])
    shape = network_shape(hp, cardinality, content["num_dynamic_feat"], lags)
    networks = [DeepARNetwork(shape).eval() for _ in range(hp.num_networks)]
    _stack(networks).load_state_dict(tensors)
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ContractError("the artifact's weights are not all finite")
    metrics = content["test_metrics"]
    if metrics is not None:
        metrics = {k: float("nan") if v is None else v for k, v in metrics.items()}
    return Model(
        hyperparameters=hp,
        cardinality=cardinality,
        num_dynamic_feat=content["num_dynamic_feat"],
        lags=lags,
        moments=moments,
        networks=networks,
        loss_curve=list(content["loss_curve"]),
        test_metrics=metrics,
        train_windows=content["train_windows"],
    )


def _read_folder(folder: Path) -> dict[str, bytes]:
    """The two members of an archive that was unpacked to `folder`; other files there are ignored."""
    out: dict[str, bytes] = {}
    for name in (_CONFIG, _WEIGHTS):
        path = folder / name
        try:
            _check_size(folder, name, path.stat().st_size)
            out[name] = path.read_bytes()
        except FileNotFoundError as e:
            raise ContractError(f"{folder}: the artifact lacks {name}") from e
        except OSError as e:
            raise ContractError(f"{path} is not readable: {e}") from e
    return out


def _read_members(path: Path) -> dict[str, bytes]:
    """The two members, read in memory: nothing is extracted to disk, so no member's name can point outside a folder."""
    out: dict[str, bytes] = {}
    try:
        with tarfile.open(path, mode="r:gz") as tar:
            for member in tar:
                if member.isdir() and member.name == ".":
                    continue
                name = member.name.removeprefix("./")
                if name not in (_CONFIG, _WEIGHTS) or not member.isreg() or name in out:
                    raise ContractError(
                        f"{path}: unexpected member {member.name!r}; an artifact holds exactly the files "
                        f"{_CONFIG} and {_WEIGHTS}"
                    )
                _check_size(path, name, member.size)
                handle = tar.extractfile(member)
                assert handle is not None
                out[name] = handle.read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError) as e:
        if isinstance(e, FileNotFoundError):
            raise ContractError(f"{path}: there is no such model artifact") from e
        raise ContractError(f"{path} is not a readable model.tar.gz: {e}") from e
    missing = {_CONFIG, _WEIGHTS} - out.keys()
    if missing:
        raise ContractError(f"{path}: the artifact lacks {', '.join(sorted(missing))}")
    return out


def _check_size(path: Path, name: str, size: int) -> None:
    if size > _MAX_MEMBER:
        raise ContractError(f"{path}: {name} claims {size} bytes; at most {_MAX_MEMBER} are read")


def _version(content: dict[str, Any], weights: bytes) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False).encode()
    return "deepar-" + hashlib.sha256(text + b"\0" + weights).hexdigest()[:16]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
