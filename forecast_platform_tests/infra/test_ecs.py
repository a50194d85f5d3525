"""Dagster on ECS: the template is sound, its services are those of docker/compose.yaml, and moto deploys it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.infra.template import ACCOUNT, REGION, listed, load
from forecast_platform_tests.infra.test_templates import ONLY_STAR

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

ROOT = Path(__file__).parents[2]
PATH = ROOT / "infra" / "ecs.yaml"
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
SERVICES = {"Code": "code", "Webserver": "webserver", "Daemon": "daemon", "Dashboard": "dashboard"}
BY_NAME = "forecast.example.com"


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load(PATH)["Resources"][name]["Properties"]
    return found


def test_cfn_lint_finds_nothing() -> None:
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(PATH)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(spec.get("Description") for spec in load(PATH)["Parameters"].values())


@pytest.mark.parametrize(("title", "name"), SERVICES.items())
def test_a_task_is_the_service_of_the_compose_file(title: str, name: str) -> None:
    (container,) = properties(f"{title}Task")["ContainerDefinitions"]
    command = COMPOSE[name].get("command")
    named = {"${DASHBOARD_NAME:-localhost}": {"Ref": "DashboardName"}}
    assert container.get("Command") == (command and [named.get(word, word) for word in command])
    assert container["LinuxParameters"]["Capabilities"] == {"Drop": COMPOSE[name]["cap_drop"]}
    # The settings file of `make release`, what it does not hold, and the password as a secret.
    given = {item["Name"] for item in container["Environment"]} | {item["Name"] for item in container["Secrets"]}
    by_the_file = {"AWS_REGION", "DAGSTER_LOGS_BUCKET"}
    # A task has its role; on one machine a file says whose the dashboard takes.
    assert given == set(COMPOSE[name]["environment"]) - by_the_file - {"AWS_CONFIG_FILE"}
    role = "DashboardRoleArn" if name == "dashboard" else "PlatformRoleArn"
    assert properties(f"{title}Task")["TaskRoleArn"] == {"Ref": role}
    if name in ("webserver", "dashboard"):
        (port,) = (int(published.rpartition(":")[2]) for published in COMPOSE[name]["ports"])
        assert [mapping["ContainerPort"] for mapping in container["PortMappings"]] == [port]
        check = COMPOSE[name]["healthcheck"]["test"]
        assert [w.replace("'", '"') for w in container["HealthCheck"]["Command"]] == [
            w.replace("'", '"') for w in check
        ]
    assert not [item["Name"] for item in container["Environment"] if "PASSWORD" in item["Name"]]
    service = properties(title)
    if name != "dashboard":
        one_at_a_time = {"MinimumHealthyPercent": 0, "MaximumPercent": 100}
        assert service["DeploymentConfiguration"] == one_at_a_time, "never two daemons"
    assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"


def test_while_paused_nothing_begins_a_run_and_those_under_way_go_on() -> None:
    """By a parameter: what `aws ecs update-service` has set, the next deployment of the template would undo."""
    assert load(PATH)["Conditions"]["Paused"] == {"Fn::Equals": [{"Ref": "Paused"}, "yes"]}
    unless_paused = {"Fn::If": ["Paused", 0, 1]}
    counts = {name: properties(title)["DesiredCount"] for title, name in SERVICES.items()}
    assert counts == {"code": 1, "dashboard": 1, "daemon": unless_paused, "webserver": unless_paused}
    guide = (ROOT / "docs" / "aws" / "day_two.md").read_text()
    steps = ["Paused=yes\x20", "forecast_platform.draining", "Image=NEW_IMAGE", '"migrate"', "Paused=no\n"]
    places = [guide.index(step, guide.index("An update, in this order")) for step in steps]
    assert places == sorted(places)


def test_webserver_and_daemon_find_the_code_location() -> None:
    (server,) = yaml.safe_load((ROOT / "docker" / "workspace.yaml").read_text())["load_from"]
    (published,) = properties("Code")["ServiceConnectConfiguration"]["Services"]
    (alias,) = published["ClientAliases"]
    assert (alias["DnsName"], alias["Port"]) == (server["grpc_server"]["host"], server["grpc_server"]["port"])
    (container,) = properties("CodeTask")["ContainerDefinitions"]
    assert container["PortMappings"][0]["Name"] == published["PortName"]


def test_all_services_of_the_compose_file_are_there() -> None:
    """But Postgres, which RDS is."""
    kinds = {name: resource["Type"] for name, resource in load(PATH)["Resources"].items()}
    assert {SERVICES[name] for name, kind in kinds.items() if kind == "AWS::ECS::Service"} == set(COMPOSE) - {
        "postgres"
    }


def test_the_dashboard_answers_the_load_balancer_and_people_by_its_name(home: Path) -> None:
    """The balancer's check names the task's address: refused, as its matcher wants; the container's own is answered."""
    from starlette.testclient import TestClient

    from forecast_platform.dashboard.app import build_app
    from forecast_platform.dashboard.source import Source
    from forecast_platform.lake.lake import Lake

    settings = Settings(**SMALL)
    source = Source(Lake.local(settings.warehouse, settings.quantile_columns))
    (rule,) = properties("DashboardRule")["Conditions"]
    assert rule == {"Field": "host-header", "HostHeaderConfig": {"Values": [{"Ref": "DashboardName"}]}}
    target = properties("DashboardTarget")
    # As the command makes it of its --host and --name.
    with TestClient(build_app(settings, source, ("localhost", "127.0.0.1", "0.0.0.0", BY_NAME))) as client:

        def asked(host: str) -> int:
            return client.get(target["HealthCheckPath"], headers={"Host": host}).status_code

        assert asked("10.0.1.7:8050") == int(target["Matcher"]["HttpCode"])
        assert (asked(BY_NAME), asked("127.0.0.1:8050")) == (200, 200)


@pytest.mark.parametrize(("name", "actions"), [("Listener", "DefaultActions"), ("DashboardRule", "Actions")])
def test_nobody_is_let_through_who_was_not_asked(name: str, actions: str) -> None:
    first, second = sorted(properties(name)[actions], key=lambda action: action["Order"])
    assert (first["Type"], second["Type"]) == ("authenticate-oidc", "forward")
    assert first["AuthenticateOidcConfig"]["OnUnauthenticatedRequest"] == "authenticate"
    assert first == properties("Listener")["DefaultActions"][0], "one identity provider"


def test_nothing_is_public() -> None:
    listener = properties("Listener")
    assert (listener["Protocol"], properties("Balancer")["Scheme"]) == ("HTTPS", "internal")
    database = load(PATH)["Resources"]["Database"]
    assert database["DeletionPolicy"] == "Snapshot"
    wanted = {"StorageEncrypted": True, "PubliclyAccessible": False, "ManageMasterUserPassword": True}
    assert wanted.items() <= database["Properties"].items()
    for name in ("TaskGroup", "DatabaseGroup"):
        assert all("SourceSecurityGroupId" in rule for rule in properties(name)["SecurityGroupIngress"]), name
    ingress = properties("BalancerGroup")["SecurityGroupIngress"]
    assert [rule["CidrIp"] for rule in ingress] == [{"Ref": "PeopleCidr"}]


def test_what_starts_the_tasks_may_do_no_more() -> None:
    policies = properties("StartRole")["Policies"]
    assert policies
    for policy in policies:
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = listed(statement["Action"])
            assert not [action for action in actions if "*" in action]
            assert statement["Resource"] != "*" or set(actions) <= ONLY_STAR


def test_it_deploys(s3: Any) -> None:
    """moto passes over the namespace, and does not know what RDS says of a database."""
    session = boto3.Session()
    ec2, cloudformation = session.client("ec2"), session.client("cloudformation")
    subnets = ec2.describe_subnets()["Subnets"]
    ids = ",".join(subnet["SubnetId"] for subnet in subnets[:2])
    text = PATH.read_text()
    for attribute in ("Database.MasterUserSecret.SecretArn", "Database.Endpoint.Address", "Names.Arn"):
        text = text.replace(f"!GetAtt {attribute}", "secret").replace(f"${{{attribute}}}", "secret")
    given = {
        "PlatformRoleArn": f"arn:aws:iam::{ACCOUNT}:role/PlatformRole",
        "DashboardRoleArn": f"arn:aws:iam::{ACCOUNT}:role/DashboardRole",
        "DashboardName": BY_NAME,
        "StorageBucket": "drop",
        "Image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/forecast-platform:1",
        "VpcId": subnets[0]["VpcId"],
        "BalancerSubnetIds": ids,
        "SubnetIds": ids,
        "PeopleCidr": "10.0.0.0/8",
        "CertificateArn": session.client("acm").request_certificate(DomainName="dagster.example.com")["CertificateArn"],
        **{name: "https://login.example.com/x" for name in load(PATH)["Parameters"] if name.startswith("Oidc")},
        "OidcSecret": "oidc",
        "KmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b",
    }
    session.client("secretsmanager").create_secret(
        Name="oidc", SecretString='{"client_id": "dagster", "client_secret": "s"}'
    )
    cloudformation.create_stack(
        StackName="forecast-ecs",
        TemplateBody=text,
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (made,) = cloudformation.describe_stacks(StackName="forecast-ecs")["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    # ECS fetches the settings file from the bucket, which is under that key.
    iam = session.client("iam")
    (start,) = (role["RoleName"] for role in iam.list_roles()["Roles"] if "StartRole" in role["RoleName"])
    policies = [
        iam.get_role_policy(RoleName=start, PolicyName=n) for n in iam.list_role_policies(RoleName=start)["PolicyNames"]
    ]
    documents = [str(policy["PolicyDocument"]) for policy in policies]
    assert [d for d in documents if "s3:GetObject" in d and "arn:aws:s3:::drop/host/aws.env" in d]
    assert [d for d in documents if "kms:Decrypt" in d and given["KmsKeyArn"] in d]
    ecs = session.client("ecs")
    found = ecs.describe_services(cluster="forecast", services=list(SERVICES.values()))["services"]
    # An update by parameters alone changes nothing on moto, so that of `Paused` is held by the template.
    assert {service["serviceName"]: service["desiredCount"] for service in found} == dict.fromkeys(SERVICES.values(), 1)
    task = ecs.describe_task_definition(taskDefinition="forecast-code")["taskDefinition"]
    assert [container["image"] for container in task["containerDefinitions"]] == [given["Image"]]
    (database,) = session.client("rds").describe_db_instances()["DBInstances"]
    assert (database["StorageEncrypted"], database["PubliclyAccessible"]) == (True, False)
    balancing = session.client("elbv2")
    (balancer,) = balancing.describe_load_balancers()["LoadBalancers"]
    (listener,) = balancing.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    rules = balancing.describe_rules(ListenerArn=listener["ListenerArn"])["Rules"]
    by = {rule["Priority"]: [action["Type"] for action in rule["Actions"]] for rule in rules}
    assert by == {priority: ["authenticate-oidc", "forward"] for priority in ("1", "default")}
    ports = {group["TargetGroupName"]: group["Port"] for group in balancing.describe_target_groups()["TargetGroups"]}
    assert ports == {"forecast-webserver": 3000, "forecast-dashboard": 8050}
