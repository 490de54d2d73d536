"""Sealers for tests, and the script that outsiders check proofs with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from domain.application.audit.sealer import Sealer
from domain.ports.clock import Clock
from domain.ports.log import EventStore
from domain.ports.seals import SealStore
from infrastructure.settings import CHECKOUT
from infrastructure.signing import Ed25519Signer, Ed25519Verifier, new_key

SCRIPT = CHECKOUT / "docs" / "verify_event.py"
VERIFIER = Ed25519Verifier()


def a_signer() -> Ed25519Signer:
    return new_key()[1]


def sealer(
    events: EventStore, seals: SealStore, clock: Clock, signer: Ed25519Signer | None = None, every: float = 3600
) -> Sealer:
    return Sealer(events, seals, clock, VERIFIER, signer or a_signer(), every)


def outsider(proof: Any, *options: str, file: Path | None = None) -> tuple[int, str]:
    """Run the script on a proof; return its exit status and what it said. Threadfold is not on its path."""
    arguments = [sys.executable, "-I", str(SCRIPT), *options]
    document = proof if isinstance(proof, str) else json.dumps(proof)
    if file is not None:
        file.write_text(document, encoding="utf-8")
        arguments.append(str(file))
    given = "" if file else document
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False, cwd="/")
    return done.returncode, done.stdout + done.stderr
