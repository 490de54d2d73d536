"""Turns whose code exits, blocks, prints, dies or does not end, beside turns that do nothing wrong.

Each seed picks one to three villains and ten to twenty innocent turns. Several seeds share a server: then each
villain acts beside the innocent turns of all. The server has two or three processes and short leases; all the time
it is asked whether it is there. In the end the log says what became of the turns.

Faults are: an innocent turn that failed or did not end, or whose tool ran twice; a villain's turn that did not end, or
ended otherwise than by failing or telling the model; a time in which nothing was answered; a process that spins, or
outlives SIGTERM.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import innocent, villain
from tests.chaos.client import Begun, Client, Prober, longest_gap
from tests.chaos.crashes import new_database
from tests.chaos.effects import EFFECTS, read_effects, repeated
from tests.chaos.ends import Ends, described, stories
from tests.chaos.serving import cancelled, family, pace_of, serving, spinning

LEASE = 2.0
PER_SERVER = 10
"""Seeds that share a server."""

BEGINNING = 20.0
"""Seconds within which the turns of a server's seeds are begun."""

ADDRESSES = 3 * 1024**3
"""Bytes of address space that a process may take: what `memory` runs into."""

DOWN = 10 * LEASE
"""Seconds without any answer after which the service counts as down. A process that is blocked is silent for three
leases before it is replaced; two that are blocked one after the other, for six; a start takes some seconds."""

SLOW = 30 * LEASE
"""Seconds within which a new quick turn must have been accepted, and in which some new quick turn must have run to its
end, whatever happens to the processes meanwhile. One of them may take as long as every innocent turn: if two processes
ended while it could run, it is a suspect, and waits for a process of its own behind all the others."""

VILLAINS_END = 180.0
"""Seconds within which a villain's turn must have ended: some deaths and restarts, and a time in isolation."""

INNOCENTS_END = 240.0
"""Seconds within which an innocent turn must have ended: it may have to go on in several processes."""


@dataclass(frozen=True)
class Plan:
    """What a seed does: what is said to which agent, and how many seconds after the beginning."""

    seed: int
    villains: Sequence[tuple[float, str]]
    innocents: Sequence[tuple[float, str, str]]

    @property
    def told(self) -> str:
        """Name the villains."""
        return ", ".join(text for _, text in self.villains)


@dataclass
class Report:
    """What was seen with one server."""

    plans: Sequence[Plan]
    pace: float = 1.0
    """What bounds of time are multiplied by: see `pace_of`."""
    innocents: int = 0
    failed: list[str] = field(default_factory=list)
    """Innocent turns that ended otherwise than by completing."""
    stuck: list[str] = field(default_factory=list)
    """Turns that did not end, or were not even accepted."""
    doubled: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Villains' turns that ended in another way than was expected, and processes that spin or do not stop."""
    silence: float = 0.0
    standstill: float = 0.0
    """Seconds between the ends of two new quick turns, at most."""
    slowest_probe: float = 0.0
    slowest_villain: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    """How the villains' turns ended."""

    @property
    def faults(self) -> Sequence[str]:
        """List everything that must not happen."""
        return [*self.failed, *self.stuck, *self.doubled, *self.down, *self.others]


def plan_of(seed: int) -> Plan:
    """Draw what a seed does."""
    chance = random.Random(seed)
    fitting = [(act, place) for act in villain.ACTS for place in villain.PLACES if villain.fits(act, place)]
    # Each act is met at least once in so many seeds; the others are drawn.
    acts = [villain.ACTS[seed % len(villain.ACTS)], *chance.choices(villain.ACTS, k=chance.randint(0, 2))]
    villains = []
    for act in acts:
        place = chance.choice([place for other, place in fitting if other == act])
        villains.append((chance.uniform(1, BEGINNING), f"{act}@{place} {seed}"))
    innocents = []
    for _ in range(chance.randint(10, 20)):
        graph = chance.choice(["quick", "sleeper", "sleeper", "payer", "payer", "mapper"])
        innocents.append((chance.uniform(0, BEGINNING), graph, f"{chance.uniform(0.5, 6):.1f} {seed}"))
    return Plan(seed, villains, innocents)


async def run(server: str, template: str, directory: Path, seeds: Sequence[int]) -> Report:
    """Play some seeds with one server."""
    chance = random.Random(seeds[0])
    workers, projections = chance.choice([2, 3]), chance.choice(["inside", "inside", "beside"])
    report = Report([plan_of(seed) for seed in seeds])
    effects = directory / "effects.jsonl"
    async with new_database(server, template) as url:
        settings = {
            "DATABASE_URL": url,
            "AGENTS": f"{villain.AGENTS},{innocent.AGENTS}",
            "LEASE_SECONDS": f"{LEASE:g}",
            "MAX_CONNECTIONS": "5",
            "PROJECTIONS": projections,
            EFFECTS: str(effects),
        }
        options = ("--workers", str(workers))
        async with serving(directory, *options, faults=report.others, settings=settings, memory=ADDRESSES) as process:
            report.pace = pace_of(process)
            await _play(report, url, Client([process.url]), process.pid)
    report.doubled += repeated(read_effects(effects), "pay begins")
    return report


async def _play(report: Report, url: str, client: Client, pid: int) -> None:
    ends, prober, pace = Ends(url), Prober(client), report.pace
    beside = [asyncio.create_task(ends.watch()), asyncio.create_task(prober.run(patience=pace * SLOW))]
    try:
        begun = await asyncio.gather(*[_begin(plan, client, report) for plan in report.plans])
        villains = [turn for some, _ in begun for turn in some]
        innocents = [turn for _, some in begun for turn in some]
        report.innocents = len(innocents)
        beside.append(asyncio.create_task(_deny(client, villains, ends)))
        late = await ends.wait(villains, pace * VILLAINS_END)
        report.stuck += [f"{described(turn)} has not ended after {pace * VILLAINS_END:.0f} s" for turn in late]
        late = await ends.wait(innocents, pace * INNOCENTS_END if not late else LEASE)
        report.stuck += [f"{described(turn)} is innocent and has not ended" for turn in late]
        beside[1].cancel()
        late = await ends.wait(prober.begun, pace * INNOCENTS_END if not late else LEASE)
        report.stuck += [f"{described(turn)} is innocent and has not ended" for turn in late]
        report.failed += ends.not_completed([*innocents, *prober.begun])
        await _check_villains(report, url, villains, ends)
        _check_service(report, prober, ends)
        busy = await spinning(family(pid))
        report.others += [f"process {each} uses a processor though there is nothing to do" for each in busy]
        report.others += client.errors
    finally:
        await cancelled(*beside)


async def _begin(plan: Plan, client: Client, report: Report) -> tuple[list[Begun], list[Begun]]:
    """Begin a seed's turns at their times: the villains', and the innocent ones."""

    async def one(after: float, graph: str, text: str) -> Begun | None:
        await asyncio.sleep(after)
        turn = await client.begin(graph, text, report.pace * SLOW)
        if turn is None:
            report.down.append(
                f"seed {plan.seed}: no process accepted {graph} {text!r} within {report.pace * SLOW:.0f} s"
            )
        return turn

    villains = await asyncio.gather(
        *[one(after, "villain", text) for after, text in plan.villains],
        *[one(after, graph, text) for after, graph, text in plan.innocents],
    )
    count = len(plan.villains)
    return [turn for turn in villains[:count] if turn], [turn for turn in villains[count:] if turn]


async def _deny(client: Client, turns: Sequence[Begun], ends: Ends) -> None:
    """Be the person who is asked where the code that judges a call misbehaves: then a person is asked."""
    asking = [turn for turn in turns if villain.parted(turn.text)[1] == "approval"]
    while asking := [turn for turn in asking if turn.turn_id not in ends.ends]:
        for turn in asking:
            path = f"/v1/threads/{turn.thread_id}/approvals"
            response = await client.request("GET", path)
            for one in response.json()["items"] if response is not None and response.is_success else ():
                decision = {"decision": "deny", "hash": one["hash"], "reason": "It misbehaves."}
                await client.request("POST", f"{path}/{one['approval_id']}", json=decision)
        await asyncio.sleep(1)


async def _check_villains(report: Report, url: str, villains: Sequence[Begun], ends: Ends) -> None:
    """Check that each villain's turn ended as what it did should: in a failure, or with the model told."""
    told = dict(await stories(url, villains))
    for turn in villains:
        end, act_at = ends.ends.get(turn.turn_id), turn.text.split()[0]
        if end is None:
            continue
        report.slowest_villain = max(report.slowest_villain, ends.took(turn) or 0.0)
        report.ends[f"{act_at}: {end.type} {end.data.get('reason', '')}".strip()] += 1
        act, place = villain.parted(turn.text)
        types = [event.type for event in told[turn.thread_id]]
        if end.type not in {"TurnCompleted", "TurnFailed"}:
            report.others.append(f"{described(turn)} ended with {end.type}")
        elif act in villain.EXITS and place in {"node", "thread", "item", "branch"} and end.type != "TurnFailed":
            report.others.append(f"{described(turn)} raised and ended with {end.type}")
        elif act in villain.EXITS and place == "tool" and {"ToolFailed", "ToolOutcomeUnknown"}.isdisjoint(types):
            report.others.append(f"{described(turn)} raised in a tool, and the model was not told: {types}")
        elif act in villain.PRINTS and end.type != "TurnCompleted":
            report.others.append(f"{described(turn)} only printed, and ended with {end.type}: {dict(end.data)}")


def _check_service(report: Report, prober: Prober, ends: Ends) -> None:
    report.silence = prober.longest_silence()
    if report.silence > report.pace * DOWN:
        report.down.append(f"no process answered for {report.silence:.0f} s")
    report.down += [f"no process accepted a new quick turn for {seconds:.0f} s" for seconds in prober.refused]
    ended = [ends.seen[turn.turn_id] for turn in prober.begun if turn.turn_id in ends.seen]
    report.standstill = longest_gap([(at, True) for at in (*[turn.asked_at for turn in prober.begun[:1]], *ended)])
    if report.standstill > report.pace * SLOW:
        report.down.append(f"no new quick turn has run to its end for {report.standstill:.0f} s")
    report.slowest_probe = max([took for turn in prober.begun if (took := ends.took(turn))], default=0.0)


def batches(seed: int, runs: int) -> Sequence[Sequence[int]]:
    """Share seeds among servers."""
    seeds = range(seed, seed + runs)
    return [seeds[at : at + PER_SERVER] for at in range(0, runs, PER_SERVER)]
