# The service, without torch: docker build -t anomaly-inspection .   (docs/service.md says how to run it)
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY anomaly_lightning anomaly_lightning
COPY hydra_plugins hydra_plugins
COPY conf conf
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[serve]"

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inspection
USER 10001:10001
WORKDIR /srv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
EXPOSE 8080
# Loopback is the container's own: the health check needs no token, and nothing but Python.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
# SIGTERM, which `docker stop` sends, lets the service answer what it took; give it the time: docker stop --time 35.
STOPSIGNAL SIGTERM
ENTRYPOINT ["anomaly-serve", "host=0.0.0.0", "port=8080"]
CMD ["bundle=/models/bundle"]
