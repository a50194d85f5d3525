# `make demo` and `make test` need nothing but Python 3.11+ and a package index; each sets up .venv by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
# On Linux, PyPI's own torch brings CUDA. Where your index has no CPU build, point at one first:
#   make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread a process: the networks are small, and tests and runs share the cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo spark spark-archive lambda test test-fast lint types format bench ablations scale ui deploy \
	lock image settings release host budget serverless serverless-model clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed  ## Create .venv with what the platform needs to run

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two the first time)"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

# AWS, a browser, ClickHouse and Tableau for the tests: much that the demo has no use for.
$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing what the tests need (some minutes the first time)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

spark: $(VENV)/.spark  ## Spark beside what the tests need, for FORECAST_ENGINE=spark and its tests: docs/spark.md

# An archive of 456 MB that is built here, in about a minute, and is 490 MB then; Java 17 is the machine's.
$(VENV)/.spark: $(VENV)/.dev
	@echo "Installing Spark (half a gigabyte)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[spark]"
	@touch $@

spark-archive: install  ## The platform with its dependencies for Spark's workers: dist/spark.tar.gz
	$(BIN)/python -m forecast_platform.engines.spark.archive dist/spark.tar.gz

demo: install  ## A made-up retailer from landed files to published forecasts, in ./.forecast
	$(BIN)/forecast demo

# One process more than cores, since some tests wait for processes of their own; at most 8, of a gigabyte each.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n + 1 : 8)))
test: $(VENV)/.dev  ## All tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-fast: $(VENV)/.dev  ## Tests without those that start and kill processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not kill"

lint: $(VENV)/.dev  ## Style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Static types
	$(BIN)/mypy

format: $(VENV)/.dev  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install $(PEERS)/.installed  ## The peers side by side (an hour; BENCH=--quick for a try): docs/benchmarks.md
	$(BIN)/python -m benchmarks $(BENCH)

ablations: install  ## What each ingredient is worth (a quarter of an hour; BENCH=--quick for a try): docs/ablations.md
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[trees]"
	$(BIN)/python -m benchmarks.ablations $(BENCH)

scale: install  ## What size costs, stage by stage (long; SCALE=--quick for a try): docs/throughput.md
	$(BIN)/python -m benchmarks.scale $(SCALE)

$(PEERS)/.installed: benchmarks/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	@echo "Installing the peers into $(PEERS) (some minutes the first time)"
	$(PEERS)/bin/python -m pip install --quiet "$$(sed -n 's/^torch==/torch==/p' $<)"
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

ui: install  ## Dagster's UI over ./.forecast at http://127.0.0.1:3000
	$(BIN)/forecast ui

# --- AWS (docs/aws.md). They use the aws and docker commands and whatever account these are logged in to.
STACK ?= forecast
# Parameters of the template: PARAMETERS="AlarmEmail=me@example.com InstanceTypes=ml.c5.2xlarge"
PARAMETERS ?=
# The aws command reads one name of the region or both, by its version.
ifdef AWS_REGION
export AWS_DEFAULT_REGION := $(AWS_REGION)
endif
# The engine's code, since a job refuses an image of other code; and what the image is built on.
CODE = $(shell $(BIN)/python -c "from forecast_platform.models.trained import code_version; print(code_version())")
BUILT_ON = $(shell cat docker/deepar.Dockerfile docker/deepar.lock pyproject.toml | cksum | cut -d ' ' -f 1)
IMAGE_TAG = $(CODE)-$(BUILT_ON)
OUTPUTS = aws cloudformation describe-stacks --stack-name $(STACK) --output text --query
# Of the stack; asked in the recipe, since make's own shell function sees no exported region.
IMAGE ?= $$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='Image'].OutputValue")

# A first creation that failed leaves a stack with nothing in it, which can only be deleted.
CLEAR = if [ "$$($(OUTPUTS) 'Stacks[0].StackStatus' 2>&1)" = ROLLBACK_COMPLETE ]; then \
		echo "The stack $(STACK) could not be created last time: deleting what is left of it" && \
		aws cloudformation delete-stack --stack-name $(STACK) && \
		aws cloudformation wait stack-delete-complete --stack-name $(STACK); fi

deploy: install  ## Buckets, queue, roles, catalog, workgroup, repository in AWS: docs/aws.md
	@$(CLEAR)
	aws cloudformation deploy --stack-name $(STACK) --template-file infra/forecast_platform.yaml \
		--capabilities CAPABILITY_IAM --no-fail-on-empty-changeset \
		--parameter-overrides ImageTag=$(IMAGE_TAG) $(PARAMETERS)

# Where PyTorch's index can't be reached, its wheel from elsewhere: make lock TORCH_WHEEL=FILE_OR_ADDRESS
lock: install  ## What the images install, each file with its hash, from pyproject.toml and constraints.txt: docker/*.lock
	$(BIN)/python docker/lock.py $(TORCH_WHEEL)

# SageMaker takes Docker's own form of a manifest alone: no OCI, no index with attestations. And the repository takes a tag
# once, so what is there is not built again.
image:  ## Build the DeepAR image for SageMaker and push it to $(IMAGE), by default the stack's
	@image="$(IMAGE)"; case "$$image" in "" | None) \
	echo "there is no stack $(STACK); make deploy, or give IMAGE=..."; exit 1;; esac; \
	name="$${image#*/}" && \
	if aws ecr describe-images --repository-name "$${name%:*}" --image-ids "imageTag=$${name##*:}" >/dev/null 2>&1; \
	then echo "$$image is there already"; exit 0; fi && \
	aws ecr get-login-password | docker login --username AWS --password-stdin "$${image%%/*}" && \
	docker buildx build --platform linux/amd64 --provenance=false --sbom=false \
		--output type=registry,oci-mediatypes=false --file docker/deepar.Dockerfile --tag "$$image" .

settings:  ## Print the stack's outputs as settings; > docker/aws.env for docker/compose.yaml
	@found=$$($(OUTPUTS) "Stacks[0].Outputs[?starts_with(Description, 'FORECAST_') || \
		contains(['AWS_REGION', 'DASHBOARD_ROLE_ARN'], Description)].[Description, OutputValue]") && \
	bucket=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='StorageUrl'].OutputValue") && \
	echo FORECAST_PROFILE=aws && echo "$$found" | tr '\t' '=' && echo "DAGSTER_LOGS_BUCKET=$${bucket#s3://}"

# What the machine runs is what is committed. It holds no secret.
release:  ## The committed code and the stack's settings to the storage bucket, for the machine of infra/host.yaml
	@bucket=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='StorageUrl'].OutputValue") && \
	git archive --format=tar.gz HEAD | aws s3 cp - "$$bucket/host/release.tar.gz" && \
	$(MAKE) -s settings | aws s3 cp - "$$bucket/host/aws.env"

host: release  ## The machine itself: PARAMETERS="VpcId=vpc-... SubnetId=subnet-...": docs/aws/day_two.md
	@bucket=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='StorageUrl'].OutputValue") && \
	profile=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='PlatformProfile'].OutputValue") && \
	name=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='JobPrefix'].OutputValue") && \
	topic=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='AlarmTopicArn'].OutputValue") && \
	aws cloudformation deploy --stack-name $(STACK)-host --template-file infra/host.yaml --no-fail-on-empty-changeset \
		--parameter-overrides Name=$$name Profile=$$profile StorageBucket=$${bucket#s3://} AlarmTopicArn=$$topic $(PARAMETERS)

budget:  ## Mail when the whole account spends more in a month: PARAMETERS="AlarmEmail=me@example.com MonthlyBudgetUsd=250"
	aws cloudformation deploy --stack-name $(STACK)-budget --template-file infra/budget.yaml --no-fail-on-empty-changeset \
		--parameter-overrides Name=$(STACK) $(PARAMETERS)

lambda: install  ## The zip of the AWS Lambda that tells Dagster of landed files: dist/lambda.zip
	$(BIN)/python -m forecast_platform.clouds.aws.package_lambda dist/lambda.zip

# --- The same without a server, in a stack of its own (docs/aws/serverless.md).
serverless serverless-model: STACK = weekly
SERVERLESS = aws cloudformation deploy --stack-name $(STACK) --template-file infra/serverless.yaml \
		--capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --parameter-overrides ImageTag=$(IMAGE_TAG)
ZIPS := dist/serverless

serverless: install  ## Without a server: buckets, roles, repository; then make image STACK=weekly: docs/aws/serverless.md
	@$(CLEAR)
	$(SERVERLESS) $(PARAMETERS)

# Lambda's Python 3.11 stands on Amazon Linux 2, whose C library is older than pyarrow's wheels need.
RUNTIME = $(shell $(BIN)/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

# Zips are stored under their checksums, so the same code is the same key and changes nothing.
serverless-model: install  ## Without a server: train on what has landed, then the Lambdas with that model
	@case "$(RUNTIME)" in python3.12 | python3.13) ;; *) \
	echo "Lambda's $(RUNTIME) has glibc 2.26, too old for pyarrow: make $@ VENV=.venv-lambda PYTHON=python3.12"; exit 1;; esac
	$(BIN)/python -m forecast_platform.serverless.package $(ZIPS)
	@$(MAKE) -s settings STACK=$(STACK) > $(ZIPS)/settings.env && set -a && . $(ZIPS)/settings.env && set +a && \
	model=$$($(BIN)/python -m forecast_platform.serverless) && echo "model $$model" && \
	for name in function layer; do \
		key=code/$$name-$$(cksum < $(ZIPS)/$$name.zip | cut -d ' ' -f 1).zip && eval "$$name=$$key" && \
		aws s3 cp --no-progress $(ZIPS)/$$name.zip "$$FORECAST_STORAGE_URL/$$key" || exit 1; done && \
	$(SERVERLESS) ModelName=$$model FunctionKey=$$function LayerKey=$$layer \
		Runtime=$(RUNTIME) $(PARAMETERS)

clean:  ## Remove the environments (not your data in ./.forecast)
	rm -rf $(VENV) .venv-lambda $(PEERS) build dist *.egg-info
