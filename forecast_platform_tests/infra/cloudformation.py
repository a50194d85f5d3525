"""Five kinds of resource that moto's CloudFormation passes over, made as CloudFormation makes them; and updates, which
make what a condition has kept back."""

from __future__ import annotations

from typing import Any

from moto.athena.models import athena_backends
from moto.budgets.models import budgets_backends
from moto.cloudformation.parsing import ResourceMap
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.glue.models import glue_backends


class _Named(CloudFormationModel):
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def physical_resource_id(self) -> str:
        return self.name

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        return ""

    @classmethod
    def update_from_cloudformation_json(cls, original_resource: Any, **_: Any) -> Any:
        return original_resource


class GlueDatabase(_Named, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Glue::Database"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> GlueDatabase:
        given = cloudformation_json["Properties"]["DatabaseInput"]
        glue_backends[account_id][region_name].create_database(given["Name"], given)
        return cls(given["Name"])

    @classmethod
    def delete_from_cloudformation_json(cls, resource_name: str, *_: Any) -> None: ...


class Workgroup(_Named, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Athena::WorkGroup"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> Workgroup:
        given = cloudformation_json["Properties"]
        backend = athena_backends[account_id][region_name]
        backend.create_work_group(given["Name"], given["WorkGroupConfiguration"], given["Description"], [])
        return cls(given["Name"])

    @classmethod
    def delete_from_cloudformation_json(cls, resource_name: str, *_: Any) -> None: ...


class MetricAlarm(_Named, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::CloudWatch::Alarm"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> MetricAlarm:
        given = cloudformation_json["Properties"]
        cloudwatch_backends[account_id][region_name].put_metric_alarm(
            name=given["AlarmName"],
            namespace=given["Namespace"],
            metric_name=given["MetricName"],
            comparison_operator=given["ComparisonOperator"],
            evaluation_periods=int(given["EvaluationPeriods"]),
            period=int(given["Period"]),
            threshold=float(given["Threshold"]),
            statistic=given["Statistic"],
            description=given["AlarmDescription"],
            dimensions=given["Dimensions"],
            alarm_actions=given.get("AlarmActions", []),
            treat_missing_data=given["TreatMissingData"],
        )
        return cls(given["AlarmName"])

    @classmethod
    def delete_from_cloudformation_json(cls, resource_name: str, *_: Any) -> None: ...


class Budget(_Named, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Budgets::Budget"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> Budget:
        given = cloudformation_json["Properties"]
        budgets_backends[account_id]["aws"].create_budget(
            account_id, given["Budget"], given["NotificationsWithSubscribers"]
        )
        return cls(given["Budget"]["BudgetName"])

    @classmethod
    def delete_from_cloudformation_json(cls, resource_name: str, *_: Any) -> None: ...


class Crawler(_Named, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Glue::Crawler"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> Crawler:
        given = cloudformation_json["Properties"]
        glue_backends[account_id][region_name].create_crawler(
            name=given["Name"],
            role=given["Role"],
            database_name=given["DatabaseName"],
            description=given["Description"],
            targets=given["Targets"],
            schedule=given.get("Schedule", {}).get("ScheduleExpression", ""),
            classifiers=[],
            table_prefix=given.get("TablePrefix", ""),
            schema_change_policy=given["SchemaChangePolicy"],
            recrawl_policy={},
            lineage_configuration={},
            configuration=given.get("Configuration", ""),
            crawler_security_configuration="",
            tags={},
        )
        return cls(given["Name"])

    @classmethod
    def delete_from_cloudformation_json(cls, resource_name: str, *_: Any) -> None: ...


differ = ResourceMap.build_resource_diff


def diff(self: ResourceMap, template: dict[str, Any], *given: Any) -> dict[str, Any]:
    """moto takes what a condition has kept back until then for something to be modified."""
    found = differ(self, template, *given)
    kept_back = {
        name
        for name, resource in template["Resources"].items()
        if "Condition" in resource and name not in self._parsed_resources
    }
    changed = [name for name in found["Modify"] if name not in kept_back]
    return found | {"Add": sorted({*found["Add"], *kept_back}), "Modify": changed}
