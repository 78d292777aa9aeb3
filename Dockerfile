# The image of every pod: Ray's head and workers run it under the KubeRay operator, and by itself it is the whole
# platform in one container: `docker run --shm-size=2g -p 8000:8000 -e ML_SERVE_HOST=0.0.0.0 -e ML_SERVE_AUTH__OPEN=true
# ml-serve-gateway:0.1.0`. That lets everybody who reaches it manage models: docs/operate/security.md says how not to.

FROM python:3.11-slim-bookworm AS builder
RUN python -m venv /opt/ml-serve
ENV PATH=/opt/ml-serve/bin:$PATH
COPY requirements/image.txt /src/requirements/image.txt
# Only wheels: nothing is compiled here, so no compiler is needed, and no setup script runs.
RUN pip install --no-cache-dir --only-binary :all: --require-hashes --requirement /src/requirements/image.txt
# After the libraries, so that a change of ours leaves their layer as it is.
COPY pyproject.toml README.md /src/
COPY clients/python /src/clients/python
COPY app /src/app
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src/clients/python /src

FROM python:3.11-slim-bookworm
# wget: the readiness probe that KubeRay gives to workers calls it, in bash. curl: what the operating instructions run
# inside a pod. libgomp1: LightGBM's wheel links to it. Versions follow the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl libgomp1 wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray \
    && useradd --uid 1000 --gid ray --create-home ray \
    && install -d -o ray -g ray /var/lib/ml-serve /var/lib/ml-serve/models
COPY --from=builder /opt/ml-serve /opt/ml-serve
# Ray reads these once, when its first process starts, and they must be the same on every node; the values are those
# of app/deployments/environment.py. What depends on a setting, such as a port, stays out: `ml-serve up` sets it.
ENV PATH=/opt/ml-serve/bin:$PATH \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_worker_niceness=0 \
    RAY_preload_python_modules=app.deployments.preload \
    RAY_memory_monitor_refresh_ms=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=app.api.http.serve_middleware:middlewares \
    RAY_SERVE_HAPROXY_METRICS_ENABLED=0 \
    RAY_SERVE_HAPROXY_TUNE_BUFSIZE=65536 \
    RAY_SERVE_HAPROXY_MAXCONN=8192 \
    RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=60 \
    RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=1 \
    RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response" \
    RAY_SERVE_HAPROXY_RETRIES=1 \
    RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=1 \
    RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=268435456 \
    RAY_SERVE_GRPC_MAX_MESSAGE_SIZE=67108864 \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=67108864 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    FEAST_USAGE=False \
    ML_SERVE_HOME=/var/lib/ml-serve
WORKDIR /home/ray
# By number: with `runAsNonRoot`, Kubernetes cannot tell whether a user given by name is root.
USER 1000:1000
EXPOSE 8000 9000
# No HEALTHCHECK: Kubernetes ignores it and has KubeRay's probes, and no fixed start period is right for every model
# that may have to be loaded first; ask /readyz.
CMD ["ml-serve", "up", "--no-demo"]
