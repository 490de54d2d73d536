FROM python:3.13-slim AS packages
WORKDIR /app
COPY requirements/run.txt requirements/run.txt
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/run.txt

FROM python:3.13-slim
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 AUTH=required
WORKDIR /app
# The account owns nothing but the folder of the embedded PostgreSQL, for a container without DATABASE_URL.
RUN useradd --system --no-create-home --home-dir /app --uid 10001 threadfold && install -d -o threadfold -m 0700 .data
RUN printf '#!/bin/sh\nPYTHONPATH=/app exec /app/.venv/bin/python -P -m api "$@"\n' >/usr/local/bin/threadfold && chmod 755 /usr/local/bin/threadfold
COPY --from=packages /app/.venv .venv
COPY pyproject.toml .
COPY docs docs
COPY threadfold threadfold
COPY domain domain
COPY infrastructure infrastructure
COPY projections projections
COPY migrations migrations
COPY api api
USER threadfold
VOLUME /app/.data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health/live', timeout=2)"]
# Exec form, so that the server itself gets SIGTERM. A parent and one process: the parent replaces it when it is blocked.
CMD ["python", "-m", "api", "serve", "--workers", "1"]
