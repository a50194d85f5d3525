"""SageMaker on loopback: the calls the platform uses, over SageMaker's own wire protocol, running real containers.

boto3 reaches it by AWS_ENDPOINT_URL_SAGEMAKER, AWS_ENDPOINT_URL_CLOUDWATCH_LOGS and AWS_ENDPOINT_URL_SERVICE_QUOTAS
(the fixture `sagemaker` sets them). Objects are read from and written to the S3 server of the tests.

| file | what it does |
|---|---|
| emulator.py | the HTTP server, the operations and the ledger |
| validation.py | what is refused at once |
| faults.py | what a test can let go wrong |
| jobs.py | the states of a job |
| training.py, transform.py | the work in it |
| runtime.py | the container's process, and S3 to and from its folder |
| builtin.py | Amazon's rules for its DeepAR image, for which our engine stands in |
| neighbours.py | CloudWatch Logs and Service Quotas, on the same address |

What it is no evidence for: permissions, networks, images, prices, how long anything takes, Amazon's own forecasts.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from forecast_platform_tests.processes import forked
from forecast_platform_tests.sagemaker_emulator import runtime as runtime
from forecast_platform_tests.sagemaker_emulator import validation as validation
from forecast_platform_tests.sagemaker_emulator.faults import (
    CALL_FAULTS,
    JOB_FAULTS,
    Faults,
    limit_exceeded,
    scripted_error,
)
from forecast_platform_tests.sagemaker_emulator.jobs import TERMINAL, Job
from forecast_platform_tests.sagemaker_emulator.neighbours import Logs, Quotas
from forecast_platform_tests.sagemaker_emulator.validation import ACCOUNT, REGION, ApiError, invalid

Operations = dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]]


class Emulator:
    """The server and everything tests may set or look at.

    Args:
        s3_endpoint: of the S3 server that holds inputs and outputs.
        module: the container's module; tests of the emulator itself put a small one there.
        warm: fork containers from a process that has imported torch already.

    Attributes:
        faults: what is to go wrong. logs: what the containers wrote.
        calls: (operation, name) of every call, refused ones too. billed: names of the jobs that began to cost.
        quotas: instances allowed by usage, see Quotas.
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
        self._defaults = module, warm
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
        self.quotas = Quotas()
        self.roles: set[str] | None = None
        self.time_scale, self.grace, self.ping_seconds = 1.0, 10.0, 60.0
        self.reuse_trainings = self._holding = False
        self.module, self.warm = self._defaults

    def start(self) -> None:
        if self.warm:
            forked()
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
            raise scripted_error(fault.kind, request)
        services: dict[str, Operations] = {
            "SageMaker": self._sagemaker,
            "Logs_20140328": {
                "DescribeLogStreams": self.logs.describe_log_streams,
                "GetLogEvents": self.logs.get_log_events,
            },
            "ServiceQuotasV20190624": {
                "ListServiceQuotas": self.quotas.list_service_quotas,
                "GetServiceQuota": self.quotas.get_service_quota,
            },
        }
        operations = services.get(service, {})
        if operation not in operations:
            raise ApiError("NotEmulated", f"{target} is not emulated", status=501)
        if service == "SageMaker":
            validation.check_shape(operation, request)
            validation.check_emulated(operation, request)
        with self.lock:
            answer = operations[operation](request)
        return None if fault else answer or {}

    @property
    def _sagemaker(self) -> Operations:
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
        if count > 1 and request["AlgorithmSpecification"]["TrainingImage"] != validation.BUILTIN:
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
        model = self.models[request["ModelName"]][1]
        self._objects(request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"], model["ExecutionRoleArn"])
        job = self._begin("transform", name, request, model["PrimaryContainer"])
        return {"TransformJobArn": job.arn}

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

    def _begin(self, kind: str, name: str, request: dict[str, Any], model: dict[str, Any] | None = None) -> Job:
        job = Job(kind, name, request, self, model or {})
        self._check_quota(job)
        validation.check_tags(request.get("Tags", []))
        job.fault = self.faults.take(f"Create{kind.capitalize()}Job", JOB_FAULTS)
        job.held = self._holding or job.has("slow")
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
        if used + count > self.quotas[usage]:
            raise limit_exceeded(usage, self.quotas[usage], used, count)

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
            raise invalid(f"The request was rejected because the {job.kind} job is in status {job.status}")
        self.stop_job(job)

    def stop_job(self, job: Job) -> None:
        """As the console's Stop button."""
        with self.lock:
            if job.status == "InProgress":
                job.status = "Stopping"
                job.enter("Stopping", "Stopping the job")
            job.stopping.set()

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


def _model_arn(name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model/{name}"


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
            except Exception:  # of the emulator; 501 is a status that boto3 does not try again
                status, answer = 501, {"__type": "EmulatorError", "message": traceback.format_exc()}
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
