"""The command line `threadfold`: one module for each command.

A command's module is imported when it is used, so that help and completion do not load the whole service.
"""

import importlib
import io
import keyword
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast

import click

from api.cli.visible import visible

COMMANDS = {
    "serve": "Serve the HTTP API.",
    "worker": "Run the agents' turns, without serving HTTP.",
    "workers": "List the processes that run turns.",
    "chat": "Talk to an agent in the terminal.",
    "threads": "Inspect threads: list, show, events, state, budget, diff, tail.",
    "turns": "List turns: how they ended, what they took and called.",
    "keys": "API keys: create, list, rotate, revoke.",
    "tenants": "Tenants: create, list, suspend, resume.",
    "limits": "Limit what agents and models may spend: list, set, history.",
    "projections": "Manage the read models: list, rebuild, rollback, drop, parked, retry, skip.",
    "replay": "Replay threads as recorded, by another agent or with a live model, and compare.",
    "verify": "Check that the log is whole and unchanged.",
    "audit": "Commands and accesses by actor: list, reads.",
    "seals": "Signed roots of the log: list, make, check, key.",
    "proof": "Prove that an event is in the sealed log.",
    "export": "Export the log to files, Parquet or JSON lines, by day.",
    "import": "Import an export into an empty database.",
    "agents": "Check that the agents can continue the stored turns: check.",
    "graph": "List the agents' graphs, or show one.",
    "migrate": "Migrate the database to the newest schema.",
    "database": "Print the database's URL, or run a client with it.",
}
"""Each command with its help line. Its function is `<name>` in `api/cli/<name>.py`; that of import is `import_`."""


@contextmanager
def _visible_errors() -> Iterator[None]:
    """Spell out in a failure's message what could control or deceive a terminal: it may quote any text."""
    try:
        yield
    except click.ClickException as error:
        error.message = visible(error.message)  # type: ignore[misc]  # final only for type checkers
        raise


class _Commands(click.Group):
    def make_context(self, *given: Any, **more: Any) -> click.Context:
        with _visible_errors():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _visible_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's, here and below)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        return cast("click.Command", getattr(importlib.import_module(f"api.cli.{name}"), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run conversational agents on an event log.

    Settings come from the environment and from .env; .env.example lists them.
    """
    sys.excepthook = _print_traceback
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in any locale, no text may cause a traceback
            stream.reconfigure(errors="replace")


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error, whose message may quote any text."""
    click.echo(visible("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)
