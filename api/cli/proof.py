"""`threadfold proof`."""

import click

from api.cli.bootstrap import EXIT_PROBLEM, ask, here
from api.cli.output import echo, show_json
from api.schemas.seals import ProofView, proof_view
from api.services.threads import Service
from domain.application.audit.proofs import verify_proof
from domain.ids import MAX_VERSION, ThreadId


@click.command()
@click.argument("thread", type=click.UUID)
@click.argument("version", type=click.IntRange(1, MAX_VERSION))
def proof(*, thread: ThreadId, version: int) -> None:
    """Prove that the event VERSION of THREAD is in the sealed log. Prints JSON for docs/verify_event.py.

    Exits with 1 if the proof is invalid, or if no seal covers the event yet.
    """

    async def prove(service: Service) -> tuple[ProofView, bool]:
        made = await service.audit.prove(thread, version, here())
        return proof_view(made), verify_proof(made, service.runtime.sealer.verifier)

    document, sound = ask(prove)
    show_json(document)
    if not sound:
        echo("This proof is invalid: the log was changed. Run threadfold verify for details.", err=True)
        raise SystemExit(EXIT_PROBLEM)
