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
	image settings clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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

test: $(VENV)/.dev  ## All tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.dev  ## Tests without those that start and kill processes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not kill"

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
# Of the template; more of its parameters by PARAMETERS="AlarmEmail=me@example.com InstanceTypes=ml.c5.2xlarge"
TRIGGER ?= sqs
PARAMETERS ?=
# For TRIGGER=lambda: a bucket of yours in the same region for the code, and Dagster's address as the Lambda reaches it
CODE_BUCKET ?=
DAGSTER_URL ?=
# The engine's code decides the image: a job refuses an image of other code.
IMAGE_TAG = $(shell $(BIN)/python -c "from forecast_platform.models.trained import code_version; print(code_version())")
OUTPUTS = aws cloudformation describe-stacks --stack-name $(STACK) --output text --query
IMAGE = $(filter-out None,$(shell $(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='Image'].OutputValue"))

deploy: install $(if $(filter lambda,$(TRIGGER)),lambda)  ## Buckets, trigger, roles, catalog, workgroup in AWS: docs/aws.md
ifeq ($(TRIGGER),lambda)
	@test -n "$(CODE_BUCKET)" -a -n "$(DAGSTER_URL)" || { echo "TRIGGER=lambda needs CODE_BUCKET and DAGSTER_URL"; exit 1; }
	key="forecast-lambda/$$(sha256sum dist/lambda.zip | cut -c1-16).zip"; \
	aws s3 cp dist/lambda.zip "s3://$(CODE_BUCKET)/$$key" && \
	aws cloudformation deploy --stack-name $(STACK) --template-file infra/forecast_platform.yaml \
		--capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --parameter-overrides Trigger=lambda \
		LambdaCodeBucket=$(CODE_BUCKET) LambdaCodeKey=$$key DagsterUrl=$(DAGSTER_URL) \
		ImageTag=$(IMAGE_TAG) $(PARAMETERS)
else
	aws cloudformation deploy --stack-name $(STACK) --template-file infra/forecast_platform.yaml \
		--capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --parameter-overrides Trigger=$(TRIGGER) \
		ImageTag=$(IMAGE_TAG) $(PARAMETERS)
endif

image:  ## Build the DeepAR image for SageMaker and push it to $(IMAGE), by default the stack's
	@test -n "$(IMAGE)" || { echo "there is no stack $(STACK); make deploy, or give IMAGE=..."; exit 1; }
	aws ecr get-login-password | docker login --username AWS --password-stdin $(firstword $(subst /, ,$(IMAGE)))
	docker build --platform linux/amd64 --file docker/deepar.Dockerfile --tag $(IMAGE) .
	docker push $(IMAGE)

settings:  ## Print the stack's outputs as settings; > docker/aws.env for docker/compose.yaml
	@found=$$($(OUTPUTS) "Stacks[0].Outputs[?starts_with(Description, 'FORECAST_')].[Description, OutputValue]") && \
	bucket=$$($(OUTPUTS) "Stacks[0].Outputs[?OutputKey=='StorageUrl'].OutputValue") && \
	echo FORECAST_PROFILE=aws && echo "$$found" | tr '\t' '=' && echo "DAGSTER_LOGS_BUCKET=$${bucket#s3://}"

lambda: install  ## The zip of the AWS Lambda that tells Dagster of landed files: dist/lambda.zip
	$(BIN)/python -m forecast_platform.clouds.aws.package_lambda dist/lambda.zip

clean:  ## Remove the environments (not your data in ./.forecast)
	rm -rf $(VENV) $(PEERS) build dist *.egg-info
