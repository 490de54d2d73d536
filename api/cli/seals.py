"""`threadfold seals`: list, make, check, key."""

import base64

import click

from api.cli.bootstrap import EXIT_PROBLEM, answer, ask, here
from api.cli.output import as_json, counted, echo, moment, show_checked, show_json, show_table
from api.schemas.page import Page
from api.schemas.seals import SealView, in_base64, seal_view, whole_seal
from domain.application.audit.check_seals import SealsChecked
from infrastructure.signing import KEY_BYTES, new_key


def public_key(text: str) -> bytes:
    """Read an Ed25519 public key in base64."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise click.BadParameter(f"{text!r} is not a public key: expected {KEY_BYTES} bytes in base64")
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
    answer(lambda service: service.audit.seals(cursor, limit), _show, as_json=as_json)


def _show(page: Page[SealView]) -> None:
    headings = ["SEAL", "MADE (UTC)", "EVENTS", "KEY", "ROOT"]
    show_table(headings, map(_row, page.items), empty="There are no seals.")
    if page.next_cursor:
        echo(f"There are more: raise --limit (up to 1000), or add --cursor {page.next_cursor}", err=True)


@seals.command()
@click.option(
    "--new-key", is_flag=True, help="Continue after seals of another key: SIGNING_KEY was changed on purpose."
)
@as_json
def make(*, new_key: bool, as_json: bool) -> None:
    """Seal the log, if there are events after the last seal."""
    seal = ask(lambda service: service.audit.make_seal(here(), new_key=new_key))
    if as_json:
        show_json(whole_seal(seal) if seal else None)
    elif seal:
        view = seal_view(seal)
        echo(f"Seal {view.number} covers {counted(view.events, 'event')}, root {view.root}.")
    else:
        echo("There are no new events since the last seal.")


@seals.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1), required=False)
@click.option(
    "--public-key",
    "keys",
    type=public_key,
    metavar="BASE64",
    multiple=True,
    help="A key to trust.  [default: that of SIGNING_KEY]",
)
@as_json
def check(*, number: int | None, keys: tuple[bytes, ...], as_json: bool) -> None:
    """Check all seals and that the log matches them, or only the seal NUMBER.

    Exits with 1 if there are problems. Without a trusted key, anyone who can write seals could have signed them.
    """
    checked = answer(lambda service: service.audit.check(here(), number, keys), _show_check, as_json=as_json)
    if checked.problems:
        raise SystemExit(EXIT_PROBLEM)


@seals.command()
def key() -> None:
    """Make a new signing key; print its line for .env and its public key.

    Keep the private key where administrators of the database cannot read it. Give the public key to the auditors.
    """
    setting, signer = new_key()
    echo(f"# Public key: {in_base64(signer.public_key)}, key id: {signer.key_id}")
    echo(f"SIGNING_KEY={setting}")


def _show_check(checked: SealsChecked) -> None:
    show_checked(f"{counted(checked.seals, 'seal')}, {counted(checked.events, 'event')} covered", checked.problems)


def _row(seal: SealView) -> list[str]:
    return [str(seal.number), moment(seal.at), f"{seal.events:,}", seal.key_id[:8], seal.root]
