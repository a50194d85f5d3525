"""The bodies of the SageMaker requests: golden files that say why each field is there, held against botocore's service
model and the emulator's rules.

A golden file is {"request": the body, "why": {field: reason}}. After a change meant to be one, write them anew with
`python -m forecast_platform_tests.engines.sagemaker.test_requests`; the reasons stay, and a field without one fails.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.engines.base import Asked
from forecast_platform.engines.sagemaker import builtin, requests
from forecast_platform.engines.sagemaker.decision import job_name
from forecast_platform.engines.sagemaker.specs import as_tags
from forecast_platform.models.without_learning import WITHOUT_LEARNING
from forecast_platform.settings import Settings
from forecast_platform_tests.sagemaker_emulator import validation as rules

GOLDEN = Path(__file__).with_name("golden")
WEEK = dt.date(2026, 11, 20)
COMMON: dict[str, Any] = {
    "profile": "aws",
    "storage_url": "s3://forecast-storage/prod",
    "landing_url": "s3://forecast-landing",
    "role_arn": "arn:aws:iam::123456789012:role/forecast-sagemaker",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1",
}


def settings(**more: Any) -> Settings:
    return Settings(**{**COMMON, **more})


def container_training(spot: bool = False) -> dict[str, Any]:
    given = settings(spot=spot)
    root = f"{given.storage_url}/models/0123"
    places = f"{root}/input/panel/", f"{root}/jobs", f"{root}/checkpoints"
    return requests.training(given, given.image, {"platform_training": "1"}, "panel", *places)


def builtin_training(spot: bool = False) -> dict[str, Any]:
    given = settings(engine="sagemaker-builtin", spot=spot, max_job_minutes=90)
    root = f"{given.storage_url}/models/0123/2026-11-20"
    parameters = builtin.candidates(given)["reference"]
    image = requests.builtin_image("us-east-1")
    return requests.training(given, image, parameters, "train", f"{root}/input/train/", f"{root}/jobs")


def a_model(isolated: bool) -> dict[str, Any]:
    return requests.model(settings(), COMMON["image"], "s3://forecast-storage/prod/models/0123/model.tar.gz", isolated)


def a_transform(ours: bool) -> dict[str, Any]:
    given = settings(transform_instances=2, transform_shards=4)
    root = f"{given.storage_url}/transforms/2026-11-20/4567"
    asked = given, job_name("forecast", WEEK, "model", a_model(True)), f"{root}/input/", f"{root}/output"
    return (
        requests.transform(*asked)
        if ours
        else requests.transform_lines(*asked, Asked(given.quantiles, 100, 0).config())
    )


BODIES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "container-training": ("CreateTrainingJob", container_training),
    "container-training-spot": ("CreateTrainingJob", lambda: container_training(True)),
    "builtin-training": ("CreateTrainingJob", builtin_training),
    "builtin-training-spot": ("CreateTrainingJob", lambda: builtin_training(True)),
    "container-model": ("CreateModel", lambda: a_model(True)),
    "builtin-model": ("CreateModel", lambda: a_model(False)),
    "container-transform": ("CreateTransformJob", lambda: a_transform(True)),
    "builtin-transform": ("CreateTransformJob", lambda: a_transform(False)),
}


# The same in a VPC and under a key of one's own.
GUARDED: dict[str, Any] = {
    "kms_key": "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d-0000-0000-0000-000000000000",
    "vpc_subnets": "subnet-0a1b2c3d, subnet-4e5f6071",
    "vpc_security_groups": ("sg-01234567",),
}


def named(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body as it is sent, with name and tags."""
    kind = {"CreateTrainingJob": "train", "CreateTransformJob": "transform", "CreateModel": "model"}[operation]
    attempt = None if kind == "model" else 1
    tags = as_tags({"forecast:week": str(WEEK), "forecast:engine": "sagemaker-container", "forecast:run": "a(b)"})
    return {f"{operation[6:]}Name": job_name("forecast", WEEK, kind, body, attempt), **body, "Tags": tags}


def fields(body: dict[str, Any], before: str = "") -> Iterator[str]:
    """Dotted names of a body's fields, without those of hyperparameters, whose reasons are DeepAR's own."""
    for name, value in body.items():
        path = f"{before}{name}"
        inside = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(inside, dict) and name not in ("HyperParameters", "MetricDefinitions"):
            yield from fields(inside, f"{path}.")
        else:
            yield path


@pytest.mark.parametrize("name", BODIES)
class TestBodies:
    def test_they_are_those_of_the_golden_files(self, name):
        assert BODIES[name][1]() == json.loads((GOLDEN / f"{name}.json").read_text())["request"]

    def test_each_field_has_its_reason(self, name):
        golden = json.loads((GOLDEN / f"{name}.json").read_text())
        assert list(golden["why"]) == list(fields(golden["request"]))
        assert all(len(reason) > 10 for reason in golden["why"].values())

    def test_botocore_and_the_service_model_accept_them(self, name):
        from botocore.validate import ParamValidator

        operation, body = BODIES[name][0], named(BODIES[name][0], BODIES[name][1]())
        shape = rules.service_model("sagemaker").operation_model(operation).input_shape
        report = ParamValidator().validate(body, shape)
        assert not report.has_errors(), report.generate_report()
        rules.check_shape(operation, body)
        rules.check_emulated(operation, body)
        rules.check_tags(body["Tags"])
        if operation == "CreateTrainingJob":
            rules.check_training(body)
        if operation == "CreateTransformJob":
            rules.check_transform(body)


class TestGuarded:
    """Every job writes under the key, on disks under the key, in the subnets; and nothing else of it is changed."""

    @pytest.mark.parametrize("name", BODIES)
    def test_each_body_gains_key_and_vpc_and_nothing_else(self, name, monkeypatch):
        from botocore.validate import ParamValidator

        before = BODIES[name][1]()
        monkeypatch.setattr(sys.modules[__name__], "COMMON", COMMON | GUARDED)
        operation, body = BODIES[name][0], BODIES[name][1]()
        if operation.endswith("Job"):
            disk = body["ResourceConfig" if "ResourceConfig" in body else "TransformResources"]
            output = body["OutputDataConfig" if "OutputDataConfig" in body else "TransformOutput"]
            assert (disk.pop("VolumeKmsKeyId"), output.pop("KmsKeyId")) == (GUARDED["kms_key"],) * 2
        if operation != "CreateTransformJob":  # which runs where its model says
            vpc = {"Subnets": ["subnet-0a1b2c3d", "subnet-4e5f6071"], "SecurityGroupIds": ["sg-01234567"]}
            assert body.pop("VpcConfig") == vpc
        if name == "container-transform" or name == "builtin-transform":
            before["ModelName"] = body["ModelName"]  # another model, since it lies in a VPC
        assert body == before
        shape = rules.service_model("sagemaker").operation_model(operation).input_shape
        report = ParamValidator().validate(named(operation, BODIES[name][1]()), shape)
        assert not report.has_errors(), report.generate_report()
        rules.check_shape(operation, named(operation, BODIES[name][1]()))

    def test_half_a_vpc_is_refused(self):
        with pytest.raises(ValueError, match="vpc_subnets and vpc_security_groups go together"):
            settings(vpc_subnets=("subnet-0a1b2c3d",))

    def test_a_key_is_an_arn(self):
        with pytest.raises(ValueError, match="kms_key"):
            settings(kms_key="my-key")


class TestHyperparameters:
    def test_amazons_image_gets_amazons_names_and_strings(self):
        found = builtin.candidates(settings(engine="sagemaker-builtin", hyperparameters={"epochs": "7"}))
        parameters = found.pop("reference")
        assert list(found) == [candidate.name for candidate in WITHOUT_LEARNING]
        assert parameters["epochs"] == "7"
        assert parameters.keys() <= {*builtin.REQUIRED, *builtin.DEFAULTS}
        assert set(builtin.REQUIRED) <= parameters.keys()
        assert all(isinstance(value, str) and len(value) <= 256 for value in parameters.values())

    @pytest.mark.parametrize("target", ["sales", "reference", "ratio"])
    def test_the_target_of_the_settings_is_the_only_candidate(self, target):
        assert list(builtin.candidates(settings(engine="sagemaker-builtin", target=target))) == [target]

    def test_ours_are_refused_by_name(self):
        with pytest.raises(ValueError, match="remove num_networks, seed from FORECAST_HYPERPARAMETERS"):
            builtin.candidates(settings(hyperparameters={"seed": "1", "num_networks": "2", "epochs": "1"}))


class TestLimits:
    @pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "ap-northeast-1"])
    def test_amazons_image_is_known_without_asking_anybody(self, region):
        assert requests.builtin_image(region).endswith(f".dkr.ecr.{region}.amazonaws.com/forecasting-deepar:1")

    def test_spot_without_checkpoints_ends_within_the_hour_that_amazon_allows(self):
        body = builtin_training(True)["StoppingCondition"]
        assert body == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}
        assert builtin_training()["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}

    def test_larger_shards_are_sent_fewer_at_a_time_and_too_large_ones_not_at_all(self):
        def sent(largest: int) -> dict[str, Any]:
            return requests.transform(settings(), "m", "s3://a/", "s3://b", largest)

        assert "MaxPayloadInMB" not in sent(6_000_000), "what the image asks for"
        for largest in (6_000_001, 25_000_000, 60_000_000, 100_000_000):
            payload, together = (sent(largest)[name] for name in ("MaxPayloadInMB", "MaxConcurrentTransforms"))
            assert largest / 1e6 <= payload
            assert together >= 1
            assert payload * together <= 100
        with pytest.raises(ValueError, match="SageMaker sends at most 100: there are too many stores"):
            sent(100_000_001)

    def test_an_inference_configuration_that_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="at most 10240 fit"):
            requests.transform_lines(settings(), "m", "s3://a/", "s3://b", {"quantiles": ["0.5"] * 3000})


def write() -> None:
    """The golden files anew, with the reasons they had."""
    for name, (_, body) in BODIES.items():
        path, request = GOLDEN / f"{name}.json", body()
        known = json.loads(path.read_text())["why"] if path.exists() else {}
        why = {field: known.get(field, "") for field in fields(request)}
        path.write_text(json.dumps({"request": request, "why": why}, indent=1) + "\n")


if __name__ == "__main__":
    write()
