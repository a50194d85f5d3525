# Dagster's three services in production, one image: webserver, daemon and code location (docker/compose.yaml).
# Build from the repository's root: docker build -f docker/platform.Dockerfile -t forecast-platform .
# Of 25 August 2026. The one of today: docker buildx imagetools inspect python:3.11-slim-bookworm
FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=1

RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

# Dependencies first: they change seldom, and this layer is then reused. Which files they are, the lock says (make lock).
WORKDIR /build
COPY docker/platform.lock ./
RUN pip install --require-hashes --no-deps --requirement platform.lock
COPY pyproject.toml README.md LICENSE ./
COPY forecast_platform ./forecast_platform
RUN pip install --no-index --no-deps --no-build-isolation . && pip check

# Nobody inside needs to be root. The home keeps Dagster's settings and what is worth keeping between starts.
RUN useradd --create-home --uid 10001 forecast && install -d -o forecast /srv/forecast /opt/dagster
COPY docker/dagster.yaml docker/workspace.yaml /opt/dagster/
# Modules are found where they are installed, never in the working directory, where a click.py could lie.
ENV DAGSTER_HOME=/opt/dagster FORECAST_HOME=/srv/forecast PYTHONSAFEPATH=1
USER forecast
WORKDIR /srv/forecast

EXPOSE 4000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["dagster", "api", "grpc-health-check", "-p", "4000"]
# This server loads the definitions again when it is asked to, as the sensor does when earlier weeks have landed.
CMD ["dagster", "code-server", "start", "-h", "0.0.0.0", "-p", "4000", "-m", "forecast_platform.definitions", \
    "-d", "/opt/dagster"]
