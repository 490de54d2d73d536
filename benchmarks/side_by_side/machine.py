"""What was measured on: whoever reads the numbers later wants to know."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.postgres import Server
from infrastructure.settings import CHECKOUT

PACKAGES = (
    "asyncpg",
    "dbos",
    "eventsourcing",
    "fastapi",
    "langchain-core",
    "langchain-openai",
    "langgraph",
    "langgraph-checkpoint-postgres",
    "litestar",
    "msgspec",
    "psycopg",
    "pydantic-ai-slim",
    "uvicorn",
    "uvloop",
)

SETTINGS = (
    "autovacuum",
    "fsync",
    "full_page_writes",
    "max_wal_size",
    "shared_buffers",
    "synchronous_commit",
    "wal_compression",
)


def machine(server: Server) -> dict[str, Any]:
    """Describe the machine, what runs on it, and when."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain")),
        "cores": os.cpu_count(),
        "processor": _first("/proc/cpuinfo", "model name"),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": server.setting("server_version"),
        "settings": {name: server.setting(name) for name in SETTINGS},
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load": os.getloadavg()[0],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=False, cwd=CHECKOUT, capture_output=True, text=True)
    return done.stdout.strip()


def _first(file: str, name: str) -> str | None:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
