# One image for every process: sluicewatch ingest | score | deliver | serve | migrate | demo … (deploy/compose.yaml).
# It has no Mosquitto; `sluicewatch demo` inside it uses amqtt and says what that one cannot do.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements/runtime.txt requirements/
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install -qq --no-cache-dir --no-compile --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY LICENSE README.md pyproject.toml ./
COPY pipeline pipeline
COPY models models
COPY service service
# The large packages that stay, and why: pyarrow (dataset files are Parquet), scipy and scikit-learn (the model), pandas and
# numpy (features), SQLAlchemy, cryptography (signatures), psycopg-binary (PostgreSQL). What goes: their own tests and
# headers, the parts of pyarrow that talk to clouds and remote servers, and the installers.
RUN /opt/venv/bin/pip install -qq --no-cache-dir --no-compile --no-index --no-deps --no-build-isolation . \
 && cd /opt/venv/lib/python3*/site-packages \
 && find . -depth -type d -name tests -exec rm -rf {} + \
 && find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -name '*.hpp' \) -delete \
 && rm -rf pyarrow/include pyarrow/*arrow_flight* pyarrow/*arrow_s3* pyarrow/_flight* pyarrow/_s3fs* \
 && /opt/venv/bin/pip uninstall -qq --yes setuptools pip \
 && /opt/venv/bin/python -m compileall -q -j 2 . \
 && /opt/venv/bin/python -c 'import pandas, pyarrow.dataset, pyarrow.parquet, scipy.stats, sklearn.ensemble, amqtt.broker, service.broker'

FROM ${BASE_IMAGE}
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    SLUICEWATCH_REGISTRY=/var/lib/sluicewatch/registry \
    SLUICEWATCH_BURSTS=/var/lib/sluicewatch/bursts
RUN groupadd --gid 10001 sluicewatch \
 && useradd --uid 10001 --gid sluicewatch --home-dir /var/lib/sluicewatch --create-home --shell /usr/sbin/nologin sluicewatch
COPY --from=build /opt/venv /opt/venv
USER 10001:10001
WORKDIR /var/lib/sluicewatch
VOLUME /var/lib/sluicewatch
EXPOSE 8000
# `serve` answers on its port, the other processes on --health-port: give each process 8000 in its container.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["sluicewatch"]
