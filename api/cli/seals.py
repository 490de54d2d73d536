"""`threadfold seals`: list, make, check, key."""

import base64
import binascii
from typing import Any

import click

from api.cli.bootstrap import EXIT_PROBLEM, ask
from api.cli.output import as_json, counted, moment, show_json, show_table, visible
from api.schemas.seals import SealView, in_base64, seal_view, whole_seal
from infrastructure.signing import KEY_BYTES, new_key


class PublicKey(click.ParamType[Any]):
    """An Ed25519 public key in base64."""

    name = "BASE64"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Read a key."""
        try:
            key = value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            self.fail(f"{value!r} is not a public key: expected {KEY_BYTES} bytes in base64", param, ctx)
        return key


@click.group()
def seals() -> None:
    """Signed roots of the log. Times are in UTC."""


@seals.command("list")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Maximum number of rows.")
@click.option("--cursor", help="Continue after the page that ended with this cursor.")
@as_json
def list_seals(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List seals, the newest first."""
    page = ask(lambda service: service.audit.seals(cursor, limit))
    if as_json:
        show_json(page)
        return
    if not page.items:
        click.echo("There are no seals.")
        return
    show_table(["SEAL", "MADE (UTC)", "EVENTS", "KEY", "ROOT"], [_row(seal) for seal in page.items])
    if page.next_cursor:
        click.echo(f"There are more: raise --limit (up to 1000), or add --cursor {page.next_cursor}", err=True)


@seals.command()
@click.option(
    "--new-key", is_flag=True, help="Continue after seals of another key: SIGNING_KEY was changed on purpose."
)
@as_json
def make(*, new_key: bool, as_json: bool) -> None:
    """Seal the log, if there are events after the last seal."""
    seal = ask(lambda service: service.runtime.sealer.make(new_key=new_key))
    if as_json:
        show_json(whole_seal(seal) if seal else None)
    elif seal:
        view = seal_view(seal)
        click.echo(f"Seal {view.number} covers {counted(view.events, 'event')}, root {view.root}.")
    else:
        click.echo("There are no new events since the last seal.")


@seals.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1), required=False)
@click.option(
    "--public-key", "keys", type=PublicKey(), multiple=True, help="A key to trust.  [default: that of SIGNING_KEY]"
)
@as_json
def check(*, number: int | None, keys: tuple[bytes, ...], as_json: bool) -> None:
    """Check all seals and that the log matches them, or only the seal NUMBER.

    Exits with 1 if there are problems. Without a trusted key, anyone who can write seals could have signed them.
    """
    checked = ask(lambda service: service.audit.check(number, keys))
    if as_json:
        show_json(checked)
    else:
        for problem in checked.problems:
            click.echo(visible(problem))
        found = counted(len(checked.problems), "problem") if checked.problems else "no problem"
        covered = f"{counted(checked.seals, 'seal')}, {counted(checked.events, 'event')} covered"
        click.echo(f"Checked {covered}: {found} found.")
    if checked.problems:
        raise SystemExit(EXIT_PROBLEM)


@seals.command()
def key() -> None:
    """Make a new signing key; print its line for .env and its public key.

    Keep the private key where administrators of the database cannot read it. Give the public key to the auditors.
    """
    setting, signer = new_key()
    click.echo(f"# Public key: {in_base64(signer.public_key)}, key id: {signer.key_id}")
    click.echo(f"SIGNING_KEY={setting}")


def _row(seal: SealView) -> list[str]:
    return [str(seal.number), moment(seal.at), f"{seal.events:,}", seal.key_id[:8], seal.root]
