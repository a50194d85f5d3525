"""SageMaker on loopback: the calls the platform uses, over SageMaker's own wire protocol, running real containers.

boto3 reaches it by AWS_ENDPOINT_URL_SAGEMAKER, AWS_ENDPOINT_URL_CLOUDWATCH_LOGS and AWS_ENDPOINT_URL_SERVICE_QUOTAS
(the fixture `sagemaker` sets them). Objects are read from and written to the S3 server of the tests.

| file | what it does |
|---|---|
| sagemaker_emulator.py | the HTTP server, the operations, the ledger and the scripted faults |
| sagemaker_validation.py | what is refused at once |
| sagemaker_jobs.py, sagemaker_transform.py | the states of a job and the work in it |
| sagemaker_runtime.py | the container's process, and S3 to and from its folder |
| sagemaker_builtin.py | Amazon's rules for its DeepAR image, for which our engine stands in |

What it is no evidence for: permissions, networks, images, prices, how long anything takes, Amazon's own forecasts.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from forecast_platform_tests.aws import sagemaker_runtime as runtime
from forecast_platform_tests.aws import sagemaker_validation as validation
from forecast_platform_tests.aws.sagemaker_jobs import TERMINAL, Job
from forecast_platform_tests.aws.sagemaker_validation import ACCOUNT, REGION, ApiError, invalid

CALL_FAULTS = ("throttle", "server_error", "access_denied", "limit", "lost_response", "lost_request")
JOB_FAULTS = ("capacity", "internal", "algorithm", "stop", "slow", "interrupt", "corrupt_output")


@dataclass
class Fault:
    """One scripted fault, used `times` times by calls of `operation`. See Faults.add."""

    operation: str
    kind: str
    times: int = 1
    detail: str = ""


@dataclass
class Faults:
    """Faults to come, first added first used."""

    scripted: list[Fault] = field(default_factory=list)

    def add(self, operation: str, kind: str, times: int = 1, detail: str = "") -> None:
        """Let the next `times` calls of an operation go wrong.

        Of the call: throttle, server_error (500), access_denied, limit (ResourceLimitExceeded with utilization),
        lost_request (the connection drops, nothing is done), lost_response (the work is done, the connection drops).
        Of the job that a Create call begins: capacity, internal, algorithm (it fails so), stop (it stops as if someone
        had stopped it), slow (InProgress until `release`), interrupt (a spot training loses its instance once after
        its first checkpoint), corrupt_output (of a transform's first object; detail: truncate, drop_line or nan).
        """
        if kind not in (*CALL_FAULTS, *JOB_FAULTS):
            raise ValueError(f"no fault {kind!r}; there are {', '.join((*CALL_FAULTS, *JOB_FAULTS))}")
        if kind in JOB_FAULTS and operation not in ("CreateTrainingJob", "CreateTransformJob"):
            raise ValueError(f"{kind} is a fault of a job; {operation} begins none")
        self.scripted.append(Fault(operation, kind, times, detail))

    def take(self, operation: str, kinds: tuple[str, ...]) -> Fault | None:
        for fault in self.scripted:
            if fault.operation == operation and fault.kind in kinds and fault.times:
                fault.times -= 1
                return fault
        return None


class Logs:
    """CloudWatch Logs as far as reading goes: group -> stream -> [(milliseconds, line)]."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, list[tuple[int, str]]]] = {}
        self.lock = threading.Lock()

    def add(self, group: str, stream: str, line: str) -> None:
        with self.lock:
            self.groups.setdefault(group, {}).setdefault(stream, []).append((round(time.time() * 1000), line))

    def text(self, job: str) -> str:
        """All of a job's lines, for assertions."""
        with self.lock:
            streams = [
                lines for group in self.groups.values() for name, lines in group.items() if name.startswith(f"{job}/")
            ]
        return "\n".join(line for lines in streams for _, line in lines)

    def describe_log_streams(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            streams = self._group(request)
            prefix, after = request.get("logStreamNamePrefix", ""), request.get("nextToken", "")
            names = sorted(name for name in streams if name.startswith(prefix) and name > after)
            page = names[: request.get("limit", 50)]
            more = {"nextToken": page[-1]} if len(names) > len(page) else {}
            return {"logStreams": [{"logStreamName": name} for name in page], **more}

    def get_log_events(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            lines = self._group(request).get(request["logStreamName"])
            if lines is None:
                raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
            limit, token = request.get("limit", 10000), request.get("nextToken")
            if token:
                first = int(token.partition("/")[2])
            else:
                first = 0 if request.get("startFromHead") else max(0, len(lines) - limit)
            page = lines[first : first + limit]
            return {
                "events": [{"timestamp": at, "message": line, "ingestionTime": at} for at, line in page],
                "nextForwardToken": f"f/{first + len(page)}",  # the same again at the end, as CloudWatch does
                "nextBackwardToken": f"b/{first}",
            }

    def _group(self, request: dict[str, Any]) -> dict[str, list[tuple[int, str]]]:
        if request["logGroupName"] not in self.groups:
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return self.groups[request["logGroupName"]]


class Emulator:
    """The server and everything tests may set or look at.

    Args:
        s3_endpoint: of the S3 server that holds inputs and outputs.
        module: the container's module; tests of the emulator itself put a small one there.
        warm: fork containers from a process that has imported torch already.

    Attributes:
        faults: what is to go wrong. logs: what the containers wrote.
        calls: (operation, name) of every call, refused ones too. billed: names of the jobs that began to cost.
        quotas: instances allowed by usage, e.g. {"ml.c5.2xlarge for training job usage": 0}; 20 where not given.
        roles: ARNs that exist; None: any of the account.
        time_scale: how many seconds a second of a job counts as, in billing and towards its time limit.
        grace: seconds between SIGTERM and SIGKILL. ping_seconds: how long a server may take to answer /ping.
        reuse_trainings: take the result of an equal training run before (same image, hyperparameters and input bytes:
            training is deterministic) instead of running it again. Off unless a test wants it.
    """

    def __init__(self, s3_endpoint: str, module: str = runtime.MODULE, warm: bool = True) -> None:
        import boto3

        self.module, self.warm = module, warm
        self.bucket = runtime.Bucket(
            boto3.Session().client(
                "s3",
                endpoint_url=s3_endpoint,
                region_name=REGION,
                aws_access_key_id="sagemaker",
                aws_secret_access_key="sagemaker",
            )
        )
        self.lock = threading.RLock()
        self.trained: dict[str, tuple[bytes | None, bytes | None]] = {}
        self._defaults = {"module": module, "warm": warm}
        self._clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def _clear(self) -> None:
        self.jobs: dict[tuple[str, str], Job] = {}
        self.models: dict[str, tuple[float, dict[str, Any]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.faults, self.logs = Faults(), Logs()
        self.calls: list[tuple[str, str]] = []
        self.billed: list[str] = []
        self.quotas: dict[str, int] = {}
        self.roles: set[str] | None = None
        self.time_scale, self.grace, self.ping_seconds = 1.0, 10.0, 60.0
        self.reuse_trainings = self._holding = False
        self.module, self.warm = self._defaults["module"], self._defaults["warm"]

    def start(self) -> None:
        if self.warm:
            runtime.warm_up()
        self._thread.start()

    def stop(self) -> None:
        self.reset()
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """End what runs and forget everything but the trainings kept for `reuse_trainings`."""
        self.grace = 0.0
        for job in list(self.jobs.values()):
            job.stopping.set()
        self.wait_idle()
        with self.lock:
            self._clear()

    def hold(self) -> None:
        """Jobs created from now on stay InProgress until `release`."""
        self._holding = True

    def release(self) -> None:
        self._holding = False
        for job in self.jobs.values():
            job.held = False

    def wait_idle(self, seconds: float = 120) -> None:
        """Until every job has ended."""
        for job in list(self.jobs.values()):
            job.thread.join(seconds)
            assert not job.thread.is_alive(), f"{job.kind} job {job.name} is still {job.status} after {seconds} s"

    # Operations, named as on the wire; each takes and returns what the service model says.

    def call(self, target: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Answer one request; None drops the connection. Raises ApiError."""
        service, _, operation = target.partition(".")
        names = ("TrainingJobName", "TransformJobName", "ModelName", "ResourceArn", "logStreamName", "logGroupName")
        with self.lock:
            self.calls.append((operation, next((request[n] for n in names if n in request), "")))
            fault = self.faults.take(operation, CALL_FAULTS)
        if fault and fault.kind == "lost_request":
            return None
        if fault and fault.kind != "lost_response":
            raise _SCRIPTED[fault.kind]
        operations = {
            "SageMaker": self._sagemaker,
            "Logs_20140328": {
                "DescribeLogStreams": self.logs.describe_log_streams,
                "GetLogEvents": self.logs.get_log_events,
            },
            "ServiceQuotasV20190624": {"ListServiceQuotas": self._list_quotas, "GetServiceQuota": self._get_quota},
        }.get(service, {})
        if operation not in operations:
            raise ApiError("NotEmulated", f"{target} is not emulated", status=501)
        if service == "SageMaker":
            validation.check_shape(operation, request)
            validation.check_emulated(operation, request)
        with self.lock:
            answer = operations[operation](request)
        return None if fault else answer or {}

    @property
    def _sagemaker(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]]:
        return {
            "CreateTrainingJob": self._create_training,
            "DescribeTrainingJob": lambda r: self._describe(self._job("training", r["TrainingJobName"])),
            "StopTrainingJob": lambda r: self._stop(self._job("training", r["TrainingJobName"])),
            "CreateTransformJob": self._create_transform,
            "DescribeTransformJob": lambda r: self._describe(self._job("transform", r["TransformJobName"])),
            "StopTransformJob": lambda r: self._stop(self._job("transform", r["TransformJobName"])),
            "CreateModel": self._create_model,
            "DescribeModel": self._describe_model,
            "DeleteModel": self._delete_model,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
        }

    def _create_training(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["TrainingJobName"]
        validation.check_training(request)
        validation.check_role(request["RoleArn"], self.roles)
        if ("training", name) in self.jobs:
            raise ApiError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a training job with this "
                f"name already exists ({self.jobs['training', name].arn})",
            )
        count = request["ResourceConfig"]["InstanceCount"]
        for channel in request.get("InputDataConfig", ()):
            source = channel["DataSource"]["S3DataSource"]
            objects = self._objects(source["S3Uri"], request["RoleArn"])
            if source.get("S3DataDistributionType") == "ShardedByS3Key" and objects < count:
                raise invalid(
                    f"Channel {channel['ChannelName']} has {objects} objects to shard over {count} instances; use at "
                    "most as many instances as there are objects"
                )
        if count > 1:
            raise ApiError("NotEmulated", "training on several instances is not emulated", status=501)
        job = self._begin("training", name, request)
        return {"TrainingJobArn": job.arn}

    def _create_transform(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["TransformJobName"]
        validation.check_transform(request)
        if request["ModelName"] not in self.models:
            raise invalid(f'Could not find model "{_model_arn(request["ModelName"])}".')
        if ("transform", name) in self.jobs:
            raise ApiError(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name already exists "
                f"({self.jobs['transform', name].arn})",
            )
        role = self.models[request["ModelName"]][1]["ExecutionRoleArn"]
        self._objects(request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"], role)
        return {"TransformJobArn": self._begin("transform", name, request).arn}

    def _objects(self, uri: str, role: str) -> int:
        """How many objects lie below a prefix; none is an error."""
        count, bucket = len(self.bucket.keys(uri)), runtime.split_uri(uri)[0]
        if not count:
            raise invalid(
                f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
                f"exists in the selected region ({REGION}), that objects exist under that S3 prefix, and that the role "
                f'"{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
            )
        return count

    def _begin(self, kind: str, name: str, request: dict[str, Any]) -> Job:
        job = Job(kind, name, request, self)
        self._check_quota(job)
        validation.check_tags(request.get("Tags", []))
        job.fault = self.faults.take(f"Create{kind.capitalize()}Job", JOB_FAULTS)
        job.held = self._holding
        self.tags[job.arn] = {tag["Key"]: tag["Value"] for tag in request.get("Tags", ())}
        job.thread.start()
        self.jobs[kind, name] = job
        return job

    def _check_quota(self, job: Job) -> None:
        kind, count = job.instances
        usage = f"{kind} for {job.kind} job usage"
        used = sum(
            j.instances[1]
            for j in self.jobs.values()
            if j.kind == job.kind and j.instances[0] == kind and j.status not in TERMINAL
        )
        if used + count > self.quotas.get(usage, 20):
            raise _limit_exceeded(usage, self.quotas.get(usage, 20), used, count)

    def _job(self, kind: str, name: str) -> Job:
        if (kind, name) not in self.jobs:
            # Not ResourceNotFound, whatever the service model says (aws/aws-sdk#165).
            raise invalid(
                "Requested resource not found."
                if kind == "training"
                else f"Could not find requested job with name: {name}"
            )
        return self.jobs[kind, name]

    def _describe(self, job: Job) -> dict[str, Any]:
        title = f"Describe{job.kind.capitalize()}Job"
        known = validation.service_model("sagemaker").operation_model(title).output_shape.members
        return {**{k: v for k, v in job.request.items() if k in known}, **job.describe()}

    def _stop(self, job: Job) -> None:
        if job.status not in ("InProgress", "Stopping"):
            raise invalid(f"The request was rejected because the {job.kind} job is in status {job.status}.")
        self.stop_job(job)

    def stop_job(self, job: Job) -> None:
        """As the console's Stop button."""
        with self.lock:
            if job.status == "InProgress":
                job.status = "Stopping"
                job.enter("Stopping", "Stopping the job")
            job.stopping.set()

    def model_of(self, job: Job) -> dict[str, Any]:
        return self.models[job.request["ModelName"]][1]

    def _create_model(self, request: dict[str, Any]) -> dict[str, Any]:
        name, container = request["ModelName"], request.get("PrimaryContainer") or {}
        arn, role = _model_arn(name), request.get("ExecutionRoleArn")
        if not container.get("Image") or not role:
            raise invalid("CreateModel needs ExecutionRoleArn and PrimaryContainer with Image")
        validation.check_image(container["Image"])
        validation.check_role(role, self.roles)
        validation.check_tags(request.get("Tags", []))
        if name in self.models:
            raise invalid(f'Cannot create already existing model "{arn}".')
        data = container.get("ModelDataUrl")
        if data and runtime.split_uri(data)[1] not in self.bucket.keys(data):
            raise invalid(f"Could not find model data at {data}.")
        self.models[name] = (time.time(), request)
        self.tags[arn] = {tag["Key"]: tag["Value"] for tag in request.get("Tags", ())}
        return {"ModelArn": arn}

    def _describe_model(self, request: dict[str, Any]) -> dict[str, Any]:
        created, model = self._model(request["ModelName"])
        echo = {k: v for k, v in model.items() if k != "Tags"}
        return {**echo, "CreationTime": created, "ModelArn": _model_arn(request["ModelName"])}

    def _delete_model(self, request: dict[str, Any]) -> None:
        self._model(request["ModelName"])
        del self.models[request["ModelName"]]

    def _model(self, name: str) -> tuple[float, dict[str, Any]]:
        if name not in self.models:
            raise invalid(f'Could not find model "{_model_arn(name)}".')
        return self.models[name]

    def _add_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        merged = {**self._tags(request), **{tag["Key"]: tag["Value"] for tag in request["Tags"]}}
        validation.check_tags(request["Tags"])
        validation.check_tags([{"Key": key, "Value": value} for key, value in merged.items()])
        self.tags[request["ResourceArn"]] = merged
        return self._list_tags(request)

    def _list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": [{"Key": key, "Value": value} for key, value in self._tags(request).items()]}

    def _tags(self, request: dict[str, Any]) -> dict[str, str]:
        if request["ResourceArn"] not in self.tags:
            raise invalid(f"Could not find resource {request['ResourceArn']}")
        return self.tags[request["ResourceArn"]]

    def _list_quotas(self, request: dict[str, Any]) -> dict[str, Any]:
        usages = [
            f"{kind} for {job} job usage"
            for job in ("training", "transform")
            for kind in validation.service_model("sagemaker").shape_for(f"{job.capitalize()}InstanceType").enum
        ]
        first, size = int(request.get("NextToken", 0)), request.get("MaxResults", 100)
        page, end = usages[first : first + size], first + size
        return {"Quotas": [self._quota(u) for u in page], **({"NextToken": str(end)} if end < len(usages) else {})}

    def _get_quota(self, request: dict[str, Any]) -> dict[str, Any]:
        for quota in self._list_quotas({"MaxResults": 10**6})["Quotas"]:
            if quota["QuotaCode"] == request["QuotaCode"]:
                return {"Quota": quota}
        raise ApiError("NoSuchResourceException", "The request failed because the specified service does not exist.")

    def _quota(self, usage: str) -> dict[str, Any]:
        code = "L-" + hashlib.sha256(usage.encode()).hexdigest()[:8].upper()
        value = float(self.quotas.get(usage, 20))
        return {"ServiceCode": "sagemaker", "QuotaName": usage, "QuotaCode": code, "Value": value, "Adjustable": True}


def _model_arn(name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model/{name}"


def _limit_exceeded(usage: str, limit: int, used: int, asked: int) -> ApiError:
    return ApiError(
        "ResourceLimitExceeded",
        f"The account-level service limit '{usage}' is {limit} Instances, with current utilization of {used} Instances "
        f"and a request delta of {asked} Instances. Please use AWS Service Quotas to request an increase for this "
        "quota. If AWS Service Quotas is not available, contact AWS support to request an increase for this quota.",
    )


_SCRIPTED = {
    "throttle": ApiError("ThrottlingException", "Rate exceeded"),
    "server_error": ApiError("InternalFailure", "The request processing has failed", status=500),
    "access_denied": ApiError("AccessDeniedException", "User is not authorized to perform this operation"),
    "limit": _limit_exceeded("ml.c5.2xlarge for training job usage", 1, 1, 1),
}


def _handler(emulator: Emulator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers = 200, {}
            try:
                answer = emulator.call(self.headers.get("X-Amz-Target", ""), json.loads(body or b"{}"))
            except ApiError as error:
                status, answer = error.status, {"__type": error.code, "message": error.message}
                headers["x-amzn-ErrorType"] = error.code
            if answer is None:
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
