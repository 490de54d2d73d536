"""The audit service: verification of the log, seals and proofs."""

import asyncio
import time
from collections.abc import Collection, Sequence

from api.http.caller import Caller
from api.http.cursors import decode_cursor, encode_cursor, no_page
from api.runtime.composition import Runtime
from api.schemas.page import Page
from api.schemas.seals import SealView, VerificationReport, WholeSeal, seal_view, whole_seal
from api.services.access_log import AccessLogService
from domain.application.audit.check_seals import SealsChecked, check_seal, check_seals
from domain.application.audit.proofs import Proof, prove
from domain.application.audit.verify import Verified, verify_heads, verify_slices, verify_thread
from domain.errors import UnknownSeal, UnknownThread, VerificationRuns
from domain.ids import SLICES, START, Slice, Tenant, ThreadId
from domain.log.seal import Seal

CONCURRENT_CHECKS = 4
"""Slices checked concurrently: the database reads while this process computes hashes."""


class Verification:
    """Verifies the log, lists seals and proves events."""

    def __init__(self, runtime: Runtime, access_log: AccessLogService) -> None:
        self._runtime = runtime
        self._access_log = access_log
        self._events = runtime.repository.store
        self._seals = runtime.sealer.seals
        self._verifying = asyncio.Lock()

    async def verify(self, caller: Caller) -> VerificationReport:
        """Check the whole log and its seals. Raises `VerificationRuns` if this process is verifying already."""
        if self._verifying.locked():
            raise VerificationRuns
        async with self._verifying:
            await self._access_log.record_operation(caller, "verify")
            started = time.monotonic()
            log, seals = await self._verify_log(), await self._check()
            return _report(log, seals, SLICES, started)

    async def verify_thread(
        self, thread_id: ThreadId, caller: Caller, tenant: Tenant | None = None
    ) -> VerificationReport:
        """Check one thread: its events and its head. Raises `UnknownThread`, also for another tenant's thread."""
        started = time.monotonic()
        row = await self._events.thread(thread_id)
        if row and tenant is not None and row.tenant != tenant:
            raise UnknownThread(thread_id)
        if row is None and not await self._events.read(thread_id, START, None, 1):
            raise UnknownThread(thread_id)
        await self._access_log.record_operation(caller, "verify", thread_id)
        checked = await verify_thread(self._events, thread_id)
        return _report(checked, SealsChecked(), 0, started)

    async def make_seal(self, caller: Caller, *, new_key: bool) -> Seal | None:
        """Seal the log, if there are events after the last seal. Raises `CannotSeal`."""
        await self._access_log.record_operation(caller, "seal")
        return await self._runtime.sealer.make(new_key=new_key)

    async def check(self, caller: Caller, number: int | None = None, trusted: Collection[bytes] = ()) -> SealsChecked:
        """Check all seals and the log, or only the seal `number` and the log up to it. Raises `UnknownSeal`.

        Without `trusted` keys, SIGNING_KEY's is trusted; without that, any key.
        """
        await self._access_log.record_operation(caller, "verify")
        return await self._check(number, trusted)

    async def _check(self, number: int | None = None, trusted: Collection[bytes] = ()) -> SealsChecked:
        sealer = self._runtime.sealer
        keys = trusted or ([sealer.signer.public_key] if sealer.signer else [])
        if number is None:
            return await check_seals(self._events, self._seals, sealer.verifier, keys)
        return await check_seal(self._events, await self._seal(number), sealer.verifier, keys)

    async def prove(self, thread_id: ThreadId, version: int, caller: Caller) -> Proof:
        """Prove that an event is in the sealed log. Raises like `domain.application.audit.proofs.prove`."""
        proof = await prove(self._events, self._runtime.sealer, thread_id, version, caller.tenant)
        await self._access_log.record_threads(caller, "proof", (thread_id, proof.record.thread_id))
        return proof

    async def seals(self, cursor: str | None, limit: int) -> Page[SealView]:
        """List seals, the newest first."""
        if cursor is None:
            last = await self._seals.last()
            upto = last.number if last else 0
        else:
            upto = decode_cursor(cursor, int, "seals")
            if not 0 < upto < 2**63:
                raise no_page()
        after = max(upto - limit, 0)
        found: Sequence[Seal] = await self._seals.page(after, min(limit, upto)) if upto else []
        return Page([seal_view(seal) for seal in reversed(found)], encode_cursor(after, "seals") if after else None)

    async def seal(self, number: int) -> WholeSeal:
        """Show one seal. Raises `UnknownSeal`."""
        return whole_seal(await self._seal(number))

    async def _seal(self, number: int) -> Seal:
        found = await self._seals.get(number)
        if found is None:
            last = await self._seals.last()
            raise UnknownSeal(number, last.number if last else 0)
        return found

    async def _verify_log(self) -> Verified:
        slices = (Slice(number) for number in range(SLICES))  # shared: each concurrent check takes the next one
        at_once = min(CONCURRENT_CHECKS, self._runtime.settings.max_connections)
        checked = await asyncio.gather(*(verify_slices(self._events, slices) for _ in range(at_once)))
        cut_off = await verify_heads(self._events, map(Slice, range(SLICES)))
        log = sum(checked, Verified())
        return Verified(log.threads, log.events, (*sorted(log.problems), *cut_off.problems))


def _report(log: Verified, seals: SealsChecked, slices: int, started: float) -> VerificationReport:
    seconds = round(time.monotonic() - started, 3)
    problems = log.problems + seals.problems
    return VerificationReport(log.threads, log.events, slices, seals.seals, seals.events, seconds, problems)
