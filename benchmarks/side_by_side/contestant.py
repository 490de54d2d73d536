"""A contestant, and one run of it in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.side_by_side.figures import Figures
from benchmarks.side_by_side.postgres import Server
from infrastructure.settings import CHECKOUT

PATIENCE = 3600.0
"""Seconds that a run may take, before it is given up with all others."""


class ContestantFailed(Exception):
    """A contestant did not do its work."""


@dataclass(frozen=True)
class Contestant:
    """Who takes part: its name in tables, its module in `benchmarks.contestants`, and its options.

    `environment` is set for it on top of ours.
    """

    name: str
    module: str
    options: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, server: Server) -> Figures:
        """Let it work on an empty database. Raises `ContestantFailed` with the last that it said."""
        with server.database() as url:
            return self.ask(server, url)

    def ask(self, server: Server, url: str, **more: object) -> Figures:
        """Let it work on a database, with more options perhaps. Raises as `run` does."""
        given = {"database": url, "postmaster": server.postmaster, **self.options, **more}
        command = [sys.executable, "-m", f"benchmarks.contestants.{self.module}"]
        for name, value in given.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        done = subprocess.run(
            command,
            check=False,
            cwd=CHECKOUT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        lines = done.stdout.splitlines()
        if done.returncode != 0 or not lines:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise ContestantFailed(f"{self.name} ended with status {done.returncode}:\n{said}")
        figures: Figures = json.loads(lines[-1])
        return figures
