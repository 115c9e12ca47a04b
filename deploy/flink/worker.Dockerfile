# SDK workers for Flink or another portable runner: a pool that starts a process for each worker
# that the runner requests. Build it from the root of the repository:
#     docker build -f deploy/flink/worker.Dockerfile -t spanmill-worker .
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /spanmill
COPY . .
RUN pip install --constraint constraints.txt '.[gcs,s3]' && pip check
EXPOSE 50000
ENTRYPOINT ["python", "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port=50000"]
