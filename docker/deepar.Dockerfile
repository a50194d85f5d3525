# Our DeepAR image for SageMaker training and Batch Transform:
#   docker build --platform linux/amd64 --file docker/deepar.Dockerfile --tag forecast-deepar .
# For ECR `make image`, in the form that SageMaker takes.
# SageMaker starts it as `forecast-container train` and `forecast-container serve`; on a laptop, over a folder laid out
# as /opt/ml:
#   docker run --rm --user "$(id -u)" --volume "$PWD/ml:/opt/ml" forecast-deepar train
# Of 25 August 2026. The one of today: docker buildx imagetools inspect python:3.11-slim-bookworm
FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
# The few compiled loops (kernels.py) are kept here, whoever the image runs as.
ENV NUMBA_CACHE_DIR=/tmp/numba

# LightGBM's wheel expects OpenMP's library of the system.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /usr/src/forecast-platform

# The big layer first. Which files it is made of, the lock says (make lock): torch without CUDA, 3 GB that inference and
# networks this small have no use for.
COPY docker/deepar.lock ./
RUN python -m pip install --require-hashes --no-deps --requirement deepar.lock

COPY pyproject.toml README.md LICENSE ./
COPY forecast_platform ./forecast_platform
RUN python -m pip install --no-index --no-deps --no-build-isolation . && python -m pip check

# SageMaker mounts /opt/ml owned by root and runs the image as its user says. Files that it puts there are root's own, so
# this image stays with root, whom SageMaker's own isolation confines; `docker run --user` makes it anybody elsewhere.
WORKDIR /opt/ml

# The exec form, and no init in front: SIGTERM has to reach the process itself, whose exit code is the job's.
ENTRYPOINT ["forecast-container"]
