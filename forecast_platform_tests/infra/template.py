"""Reads our CloudFormation template as CloudFormation would, and its policies as IAM would.

`resolve` gives the resources and outputs of one choice of parameters with every intrinsic function worked out;
`allows` asks one policy about one call. Both know only what the template uses, and fail on anything else.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).parents[2] / "infra" / "forecast_platform.yaml"
ACCOUNT, REGION = "123456789012", "us-east-1"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::NoValue": None,
    "AWS::StackName": "test",
}


class _Loader(yaml.SafeLoader):
    pass


def _intrinsic(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    """!Sub and the like, in their long form."""
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if tag == "GetAtt" else value}
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _intrinsic)


@functools.cache
def load(path: Path = PATH) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load(path.read_text(), Loader=_Loader)
    return template


@dataclass
class Stack:
    """What a stack of the template consists of: properties by logical id, output values by name."""

    resources: dict[str, dict[str, Any]]
    outputs: dict[str, str]
    types: dict[str, str]

    def policies(self, role: str) -> list[dict[str, Any]]:
        """The statements of a role's own policies, and of those that are attached to it."""
        policies = self.resources[role].get("Policies", []) + [
            resource
            for name, resource in self.resources.items()
            if self.types[name] == "AWS::IAM::Policy" and role in resource["Roles"]
        ]
        return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def resolve(path: Path = PATH, /, **parameters: str) -> Stack:
    """The stack of these parameters, the others at their defaults.

    Raises:
        KeyError: something refers to what these parameters leave out.
    """
    template = load(path)
    values = {name: parameters.pop(name, spec.get("Default")) for name, spec in template["Parameters"].items()}
    assert not parameters, f"unknown parameters {parameters}"
    for name, spec in template["Parameters"].items():
        if spec["Type"] == "CommaDelimitedList":
            values[name] = values[name].split(",") if values[name] else []
        elif spec["Type"] == "Number":
            values[name] = str(values[name])  # as CloudFormation compares them
    return _Resolver(template, values).stack()


class _Resolver:
    def __init__(self, template: dict[str, Any], parameters: dict[str, Any]) -> None:
        self.template, self.parameters = template, parameters

    def stack(self) -> Stack:
        kept = {
            name: resource
            for name, resource in self.template["Resources"].items()
            if "Condition" not in resource or self.condition(resource["Condition"])
        }
        self.kept = kept
        resources = {name: self.value(resource.get("Properties", {})) for name, resource in kept.items()}
        outputs = {
            name: self.value(output["Value"])
            for name, output in self.template.get("Outputs", {}).items()
            if "Condition" not in output or self.condition(output["Condition"])
        }
        return Stack(resources, outputs, {name: resource["Type"] for name, resource in kept.items()})

    def condition(self, name: str) -> bool:
        return bool(self.value(self.template["Conditions"][name]))

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [found for found in map(self.value, node) if found is not None]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, argument), *_ = node.items()
            if name == "Ref":
                return self.ref(argument)
            if name == "Condition" and isinstance(argument, str):
                return self.condition(argument)
            if name.startswith("Fn::"):
                return getattr(self, "fn_" + name.removeprefix("Fn::").lower())(argument)
        worked_out = {key: self.value(item) for key, item in node.items()}
        return {key: item for key, item in worked_out.items() if item is not None}

    def ref(self, name: str) -> Any:
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        resource = self.kept[name]
        names = ("BucketName", "QueueName", "FunctionName", "RepositoryName", "Name", "LogGroupName")
        given = next((resource["Properties"][key] for key in names if key in resource.get("Properties", {})), name)
        if resource["Type"] == "AWS::Glue::Database":
            given = resource["Properties"]["DatabaseInput"]["Name"]
        return self.value(given)

    def fn_getatt(self, argument: list[str]) -> str:
        name, attribute = argument
        text = self.ref(name)
        if attribute == "QueueName":
            return str(text)
        kind = self.kept[name]["Type"]
        if attribute == "RepositoryUri":
            return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{text}"
        if attribute == "GroupId":
            return str(text)
        assert attribute == "Arn", attribute
        return {
            "AWS::S3::Bucket": f"arn:aws:s3:::{text}",
            "AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{text}",
            "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{text}",
            "AWS::ECR::Repository": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{text}",
            "AWS::Events::Rule": f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{text}",
            "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{text}",
            "AWS::Logs::LogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{text}:*",
        }[kind]

    def fn_sub(self, text: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            name, _, attribute = match[1].partition(".")
            return str(self.fn_getatt([name, attribute]) if attribute else self.ref(name))

        return re.sub(r"\$\{([^}]+)\}", replaced, text)

    def fn_base64(self, argument: Any) -> str:
        """Not encoded, to be read."""
        return str(self.value(argument))

    def fn_if(self, argument: list[Any]) -> Any:
        return self.value(argument[1] if self.condition(argument[0]) else argument[2])

    def fn_equals(self, argument: list[Any]) -> bool:
        return bool(self.value(argument[0]) == self.value(argument[1]))

    def fn_and(self, argument: list[Any]) -> bool:
        return all(self.value(each) for each in argument)

    def fn_not(self, argument: list[Any]) -> bool:
        return not self.value(argument[0])


def listed(value: Any) -> list[Any]:
    """IAM takes one or a list of nearly everything."""
    return value if isinstance(value, list) else [value]


def statements(stack: Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of every policy of a stack, with the resource it stands in; trust policies too."""
    for name, properties in stack.resources.items():
        documents = [properties.get("PolicyDocument"), properties.get("AssumeRolePolicyDocument")]
        documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in filter(None, documents):
            for statement in document["Statement"]:
                yield name, statement


def allows(policy: list[dict[str, Any]], action: str, resource: str, **context: Any) -> bool:
    """Whether an identity policy of Allow statements allows one call. Keys of `context` write ":" as "__"."""
    keys = {key.replace("__", ":"): listed(value) for key, value in context.items()}
    return any(
        action in listed(statement["Action"])
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
        and all(_holds(*test, keys) for test in statement.get("Condition", {}).items())
        for statement in policy
    )


def _holds(operator: str, tests: Mapping[str, Any], context: Mapping[str, list[Any]]) -> bool:
    for key, wanted in tests.items():
        given, patterns = context.get(key), listed(wanted)
        if operator == "Null":
            held = (given is None) == (wanted == "true")
        elif operator == "ForAllValues:StringEquals":
            held = all(value in patterns for value in given or ())
        elif operator == "StringLikeIfExists":
            held = given is None or any(fnmatch.fnmatchcase(v, p) for v in given for p in patterns)
        elif operator in ("StringEquals", "StringLike"):
            held = given is not None and any(fnmatch.fnmatchcase(v, p) for v in given for p in patterns)
        else:
            raise NotImplementedError(operator)
        if not held:
            return False
    return True
