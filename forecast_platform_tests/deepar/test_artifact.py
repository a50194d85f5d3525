from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from forecast_platform import deepar
from forecast_platform.deepar import ContractError, artifact

from .conftest import make_hp, make_series


def pack(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            member.linkname = "elsewhere" if kind == tarfile.SYMTYPE else ""
            tar.addfile(member, io.BytesIO(data))
    return path


def unpack(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def unpack_names(path):
    with tarfile.open(path) as tar:
        return tar.getnames()


@pytest.fixture
def saved(model, tmp_path):
    deepar.save_artifact(model, tmp_path / "model.tar.gz")
    return tmp_path / "model.tar.gz"


def test_round_trip_keeps_everything(feature_model, tmp_path):
    path = tmp_path / "model.tar.gz"
    version = deepar.save_artifact(feature_model, path)
    loaded = deepar.load_artifact(path)
    assert version == feature_model.version == loaded.version
    for name in ("hyperparameters", "cardinality", "num_dynamic_feat", "lags", "loss_curve", "train_windows"):
        assert getattr(loaded, name) == getattr(feature_model, name)
    series = make_series(features=2, extra=6)
    a, b = deepar.predict(feature_model, series), deepar.predict(loaded, series)
    assert np.array_equal(a.quantiles, b.quantiles)
    assert deepar.save_artifact(loaded, tmp_path / "again.tar.gz") == version
    assert (tmp_path / "again.tar.gz").read_bytes() == path.read_bytes()


def test_an_unpacked_and_a_repacked_artifact_are_the_same_model(model, saved, tmp_path):
    """As SageMaker does it: members saved to a folder, packed by somebody else, unpacked, loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    assert deepar.save_artifact(model, folder) == model.version
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == unpack(saved)
    assert deepar.load_artifact(folder).version == model.version
    with tarfile.open(tmp_path / "theirs.tar.gz", "w:gz") as tar:
        tar.add(folder, ".")
    assert "./model.json" in unpack_names(tmp_path / "theirs.tar.gz")
    again = deepar.load_artifact(tmp_path / "theirs.tar.gz")
    deepar.save_artifact(again, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == saved.read_bytes()
    (folder / "notes.txt").write_text("not ours")
    assert deepar.load_artifact(folder).version == model.version


def test_a_folder_that_is_no_whole_artifact_is_refused(model, tmp_path):
    with pytest.raises(ContractError, match=r"the artifact lacks model.json"):
        deepar.load_artifact(tmp_path)
    deepar.save_artifact(model, tmp_path)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(ContractError, match=r"the weights hash to .*, the artifact states"):
        deepar.load_artifact(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ContractError, match=r"the artifact lacks model.safetensors"):
        deepar.load_artifact(tmp_path)


def test_same_seed_same_bytes(series, tmp_path):
    for name in ("a", "b"):
        deepar.save_artifact(deepar.train(series, make_hp()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_network_survives_and_enters_the_version(series, tmp_path):
    model = deepar.train(series, make_hp(num_networks=3, lag_skip="on", epochs=1))
    version = deepar.save_artifact(model, tmp_path / "m")
    loaded = deepar.load_artifact(tmp_path / "m")
    assert loaded.version == version
    assert len(loaded.networks) == 3
    for ours, theirs in zip(model.networks, loaded.networks, strict=True):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    assert np.array_equal(deepar.predict(model, series).quantiles, deepar.predict(loaded, series).quantiles)
    for network in loaded.networks:
        with torch.no_grad():
            network.b_out[0] += 1
        assert loaded.version != version
        version = loaded.version


def test_an_artifact_from_before_several_networks_loads_and_keeps_its_version(tmp_path):
    """old_model.tar.gz was written by the code before num_networks and lag_skip; the forecast too is that code's."""
    here = Path(__file__).parent
    model = deepar.load_artifact(here / "old_model.tar.gz")
    assert model.version == OLD_VERSION == deepar.save_artifact(model, tmp_path / "again")
    assert len(model.networks) == 1
    got = deepar.predict(model, make_series(), 4000).quantiles[:2, [0, 8], 0]
    assert got == pytest.approx(np.array(OLD_P10_P90), rel=0.02)


def test_a_model_of_a_setting_that_is_gone_is_refused_unless_it_made_no_difference(model, saved):
    config = json.loads(unpack(saved)["model.json"])
    assert config["hyperparameters"]["scaling_power"] == "1.0"
    content = {k: v for k, v in config.items() if k not in ("schema", "version", "weights_sha256")}
    content["hyperparameters"]["scaling_power"] = "0.7"
    with pytest.raises(ContractError, match="no hyperparameter 'scaling_power'"):
        artifact.build(content, model.networks[0].state_dict())


def test_the_archive_names_nobody_and_no_time(saved):
    assert saved.read_bytes()[4:8] == b"\0" * 4
    with tarfile.open(saved) as tar:
        assert [m.name for m in tar] == ["model.json", "model.safetensors"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_test_metrics_survive(series, tmp_path):
    model = deepar.train(series, make_hp(num_eval_samples=10), test=series)
    deepar.save_artifact(model, tmp_path / "m")
    assert deepar.load_artifact(tmp_path / "m").test_metrics == model.test_metrics


def test_changed_weights_are_refused(saved):
    members = unpack(saved)
    weights = bytearray(members["model.safetensors"])
    weights[-1] ^= 1
    pack(saved, members | {"model.safetensors": bytes(weights)})
    with pytest.raises(ContractError, match=r"the weights hash to .*, the artifact states"):
        deepar.load_artifact(saved)


def test_a_changed_configuration_is_refused(saved):
    members = unpack(saved)
    config = json.loads(members["model.json"])
    config["hyperparameters"]["prediction_length"] = "7"
    pack(saved, members | {"model.json": json.dumps(config).encode()})
    with pytest.raises(ContractError, match=r"the content is deepar-.*, the artifact says deepar-"):
        deepar.load_artifact(saved)


def test_another_schema_is_refused(saved):
    members = unpack(saved)
    config = json.loads(members["model.json"]) | {"schema": 2}
    pack(saved, members | {"model.json": json.dumps(config).encode()})
    with pytest.raises(ContractError, match="has schema 2; this code reads schema 1"):
        deepar.load_artifact(saved)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "sub/model.json", "./model.json", "extra.py"])
def test_members_that_lead_elsewhere_are_refused(saved, tmp_path, name):
    pack(saved, unpack(saved) | {name: b"x"})
    with pytest.raises(ContractError, match="unexpected member"):
        deepar.load_artifact(saved)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files_are_refused(tmp_path, kind):
    with pytest.raises(ContractError, match="unexpected member"):
        deepar.load_artifact(pack(tmp_path / "m", {"model.json": b""}, kind))


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK" + b, lambda b: gzip.compress(b"not a tar")]
)
def test_damaged_archives_are_refused(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(ContractError, match=r"model.tar.gz"):
        deepar.load_artifact(saved)


def test_incomplete_archives_are_refused(saved, tmp_path):
    members = unpack(saved)
    with pytest.raises(ContractError, match=r"lacks model.safetensors"):
        deepar.load_artifact(pack(tmp_path / "m", {"model.json": members["model.json"]}))
    for config in (b"{}", b"[]", b"no json"):
        with pytest.raises(ContractError, match="not a model artifact"):
            deepar.load_artifact(pack(tmp_path / "m", members | {"model.json": config}))
    with pytest.raises(ContractError, match="there is no such model artifact"):
        deepar.load_artifact(tmp_path / "none")


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(model, tmp_path):
    import copy

    bad = copy.deepcopy(model)
    with torch.no_grad():
        bad.networks[0].b_out[0] = float("nan")
    deepar.save_artifact(bad, tmp_path / "m")
    with pytest.raises(ContractError, match="not all finite"):
        deepar.load_artifact(tmp_path / "m")
    bad = copy.deepcopy(model)
    bad.lags = model.lags[:-1]
    deepar.save_artifact(bad, tmp_path / "m")
    with pytest.raises(ContractError, match="not a model artifact"):
        deepar.load_artifact(tmp_path / "m")


OLD_VERSION = "deepar-4e1579b7a514926b"
OLD_P10_P90 = [[-309.415, 355.442], [-1127.758, 1197.468]]  # of 60,000 paths, first step
