"""The production files of docker/ and the Makefile: they fit each other and what they are made for.

No Docker runs here, and Postgres' driver is in the image only, so what needs those is not proven by these tests.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jmespath
import pytest
import yaml

from forecast_platform.settings import Settings
from forecast_platform_tests.infra.template import REGION, load, resolve

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n\t\t", "")
PLATFORM = (DOCKER / "platform.Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OURS = ("code", "webserver", "daemon")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """docker/dagster.yaml as Dagster reads it, which refuses names and values it does not know."""
    from dagster._core.instance.config import dagster_instance_config

    (tmp_path / "dagster.yaml").write_text((DOCKER / "dagster.yaml").read_text())
    read, _ = dagster_instance_config(str(tmp_path))
    return dict(read)


def environments(node: Any) -> set[str]:
    """Every variable that a dagster.yaml reads."""
    if isinstance(node, dict):
        return {node["env"]} if set(node) == {"env"} else set().union(*map(environments, node.values()))
    return set().union(*map(environments, node)) if isinstance(node, list) else set()


def test_every_service_is_given_what_dagster_reads(config: dict[str, Any]) -> None:
    wanted = environments(config)
    assert "DAGSTER_POSTGRES_PASSWORD" in wanted
    for name in OURS:
        assert wanted <= set(COMPOSE["services"][name]["environment"]), name


def test_classes_named_for_dagster_take_their_configuration(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster._serdes import ConfigurableClassData

    for variable in environments(config):
        monkeypatch.setenv(variable, "x")
    for part in ("compute_logs", "run_launcher"):
        spec = config[part]
        data = ConfigurableClassData(spec["module"], spec["class"], yaml.dump(spec.get("config", {})))
        assert type(data.rehydrate(as_type=object)).__name__ == spec["class"]


def test_a_cancelled_run_reaches_its_job_and_gives_its_slot_back(config: dict[str, Any]) -> None:
    monitoring, retries = config["run_monitoring"], config["run_retries"]
    assert monitoring["max_resume_run_attempts"] == 0
    assert monitoring["free_slots_after_run_end_seconds"] > 0
    assert retries["retry_on_asset_or_op_failure"] is False


def test_services_restart_prove_their_health_and_hold_no_secret() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or (name == "code" and "HEALTHCHECK" in PLATFORM), name
        for key, value in service["environment"].items():
            if "PASSWORD" in key or "SECRET" in key:
                assert re.match(r"\$\{\w+:\?", value), f"{name}.{key} must come from the environment file"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to the network, without a login"
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in COMPOSE["volumes"], name
        for other in service.get("depends_on", {}):
            assert other in COMPOSE["services"]
    assert "aws.env" in str(COMPOSE["services"]["code"]["env_file"])
    assert "*.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_webserver_and_daemon_find_the_code_location() -> None:
    (server,) = yaml.safe_load((DOCKER / "workspace.yaml").read_text())["load_from"]
    assert server["grpc_server"]["host"] in COMPOSE["services"]
    assert f"EXPOSE {server['grpc_server']['port']}" in PLATFORM
    module = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dagster"]["module_name"]
    assert server["grpc_server"]["location_name"] == module
    assert f'"-m", "{module}"' in PLATFORM
    assert 'CMD ["dagster", "code-server", "start"' in PLATFORM, "`dagster api grpc` cannot load definitions again"


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_what_an_image_copies_is_there_and_it_runs_as_nobody_special(path: Path) -> None:
    lines = path.read_text().replace("\\\n", " ").splitlines()
    for line in (line for line in lines if line.startswith("COPY ") and "--from" not in line):
        *sources, _ = [word for word in shlex.split(line)[1:] if not word.startswith("--")]
        assert sources, line
        for source in sources:
            assert list(ROOT.glob(source)), f"{path.name}: COPY {source}"
    assert not [line for line in lines if re.match(r"(ENV|ARG) .*(PASSWORD|SECRET|TOKEN)", line)]
    if path.name == "platform.Dockerfile":  # SageMaker's contract has its containers run as root
        assert [line for line in lines if line.startswith("USER ")][-1] != "USER root"


def test_what_others_made_is_named_by_its_digest_and_both_images_stand_on_the_same() -> None:
    bases = [re.findall(r"^FROM (\S+)", path.read_text(), flags=re.M) for path in DOCKER.glob("*.Dockerfile")]
    assert bases[0] == bases[1]
    (postgres,) = (s["image"] for s in COMPOSE["services"].values() if "build" not in s)
    for name in (*bases[0], postgres):
        assert re.fullmatch(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}", name), name


def test_the_integrations_of_the_image_are_the_pinned_ones() -> None:
    """Dagster's integrations pin their core exactly, and so move together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {*project["dependencies"], *project["optional-dependencies"]["aws"]}
    named |= {*project["optional-dependencies"]["server"]}
    pins = dict(line.split("==") for line in named if re.match(r"dagster-(aws|duckdb|postgres)==", line))
    assert set(pins) == {"dagster-aws", "dagster-duckdb", "dagster-postgres"}
    assert len(set(pins.values())) == 1
    lock = (DOCKER / "platform.lock").read_text()
    assert all(f"{name}=={version} " in lock for name, version in pins.items())


def test_make_settings_prints_the_outputs_as_settings() -> None:
    (query,) = re.findall(r'\$\(OUTPUTS\) "(.*starts_with.*?)"\)', MAKEFILE)
    outputs = [
        {"OutputKey": name, "OutputValue": value, "Description": load()["Outputs"][name]["Description"]}
        for name, value in resolve().outputs.items()
    ]
    printed = dict(jmespath.search(query, {"Stacks": [{"Outputs": outputs}]}))
    assert printed.pop("AWS_REGION") == REGION
    assert printed.pop("DASHBOARD_ROLE_ARN") == resolve().outputs["DashboardRoleArn"]
    settings = {name.removeprefix("FORECAST_").lower(): value for name, value in printed.items()}
    assert Settings(profile="aws", **settings).queue_url == settings["queue_url"]
    others = re.findall(r"OutputKey=='(\w+)'", MAKEFILE)
    assert others
    for other in others:
        assert other in load()["Outputs"]


def test_make_deploy_gives_parameters_that_exist() -> None:
    deploy = MAKEFILE.split("\ndeploy:")[1].split("\nimage:")[0]
    assert set(re.findall(r"\b([A-Z][a-z][A-Za-z]+)=", deploy)) == {"ImageTag"}
    assert "ImageTag" in load()["Parameters"]


def test_every_process_of_the_services_is_told_the_region_by_both_its_names() -> None:
    """The daemon and the webserver do not run our code: Dagster's logs of runs go by boto3, which knows the second."""
    for name in (*OURS, "dashboard"):
        given = COMPOSE["services"][name]["environment"]
        assert given["AWS_DEFAULT_REGION"] == given["AWS_REGION"] == "${AWS_REGION:?make settings prints it}", name


def test_what_the_guide_takes_over_after_a_deletion_is_what_outlives_a_stack_and_has_a_name_of_its_own() -> None:
    """A change set imports by itself what lies there under a name that the template gives it."""
    import botocore.session

    guide = (ROOT / "docs" / "aws.md").read_text()
    assert "--import-existing-resources" in guide
    creation = botocore.session.get_session().get_service_model("cloudformation").operation_model("CreateChangeSet")
    assert "ImportExistingResources" in creation.input_shape.members
    resources = load()["Resources"]
    kept = [r for r in resources.values() if r.get("DeletionPolicy", "Delete") != "Delete"]
    assert [("BucketName" in r["Properties"] or "Name" in r["Properties"]["DatabaseInput"]) for r in kept] == [True] * 3


@pytest.mark.parametrize("guide", ["docs/aws.md", "bi/README.md"])
def test_outputs_that_the_guides_name_exist(guide: str) -> None:
    named = re.findall(r"output\s+`(\w+)`", (ROOT / guide).read_text())
    assert named, guide
    assert set(named) <= set(load()["Outputs"])
