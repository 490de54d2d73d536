"""Questions about things that were said long ago in the recorded conversations, made by templates from a seed.

A question names what a customer would: names, cities, dates, a code that they know. Its words come from the
conversation; the answer is not among them. Cities are named as people do, though the tools' results have airports.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from examples.airline.recordings import Conversation, conversations

SEED = 20_261_126
LONG = 25
"""Conversations of a long thread."""

NEWEST = 3
"""The conversations at a thread's end that nothing is asked about: they may be in the window still."""

CITIES = {
    "SFO": "San Francisco",
    "JFK": "New York",
    "LAX": "Los Angeles",
    "ORD": "Chicago",
    "DFW": "Dallas",
    "DEN": "Denver",
    "SEA": "Seattle",
    "ATL": "Atlanta",
    "MIA": "Miami",
    "BOS": "Boston",
    "PHX": "Phoenix",
    "IAH": "Houston",
    "LAS": "Las Vegas",
    "MCO": "Orlando",
    "EWR": "Newark",
    "CLT": "Charlotte",
    "MSP": "Minneapolis",
    "DTW": "Detroit",
    "PHL": "Philadelphia",
    "LGA": "LaGuardia",
}


@dataclass(frozen=True)
class Question:
    """What is asked of a thread, and the text that answers it, in any of the conversations about the same `task`."""

    kind: str
    thread: int
    task: str
    text: str
    answer: str

    def answered_by(self, text: str) -> bool:
        return re.search(rf"(?<![\w-]){re.escape(self.answer)}(?![0-9a-z_-])", text) is not None


def threads(count: int) -> Sequence[Sequence[Conversation]]:
    """Choose the conversations of each long thread."""
    chance, all_ = random.Random(SEED), list(conversations().values())
    return [chance.sample(all_, LONG) for _ in range(count)]


def questions(long: Sequence[Sequence[Conversation]], count: int) -> Sequence[Question]:
    """Make so many questions about some threads, as many of each kind as there are."""
    chance = random.Random(SEED)
    kinds: dict[str, list[Question]] = {}
    for number, thread in enumerate(long):
        newest = {task_of(conversation) for conversation in thread[-NEWEST:]}
        for conversation in thread[:-NEWEST]:
            if (task := task_of(conversation)) not in newest:
                for kind, text, answer in _asked(conversation):
                    question = Question(kind, number, task, text, answer)
                    if not question.answered_by(text) and question not in kinds.setdefault(kind, []):
                        kinds[kind].append(question)
    for found in kinds.values():
        chance.shuffle(found)
    chosen: list[Question] = []
    while len(chosen) < count and any(kinds.values()):
        chosen += [found.pop() for found in kinds.values() if found]
    return chosen[:count]


def task_of(conversation: Conversation) -> str:
    """Name what a conversation is about: `airline-05-0` and `airline-05-2` are two tries at one task."""
    return conversation.id.rpartition("-")[0]


def _asked(conversation: Conversation) -> Iterator[tuple[str, str, str]]:
    for message in conversation.messages:
        if message["role"] == "assistant" and message["content"]:
            yield from _refunded(message["content"])
        if message["role"] != "tool":
            continue
        try:
            told = json.loads(message["content"])
        except ValueError:
            continue
        match message["name"]:
            case "book_reservation":
                yield from _booked(told)
            case "get_reservation_details" | "update_reservation_flights":
                yield from _reserved(told)
            case "get_user_details":
                yield from _known(told)
            case "search_direct_flight":
                yield from _offered(told)


def _booked(told: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    route, who = _route(told), _name(told["passengers"][0])
    day = _day(told["flights"][0]["date"])
    if len(told["payment_history"]) == 1:
        amount = told["payment_history"][0]["amount"]
        yield "total", f"What was the total price of the flight {route} on {day} that I booked?", str(amount)
    yield "booked", f"Which reservation number did we get when you booked {route} for {who}?", told["reservation_id"]


def _reserved(told: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    code, route, first = told["reservation_id"], _route(told), told["flights"][0]
    yield "code", f"I lost the confirmation code of my trip {route} on {_day(first['date'])}, what is it?", code
    leg = told["flights"][-1]
    where = f"from {CITIES[leg['origin']]} to {CITIES[leg['destination']]}"
    yield "flight", f"Which flight am I on {where} on {_day(leg['date'])}, in {code}?", leg["flight_number"]
    yield "payment", f"How had I paid for {code}? I need the payment id.", told["payment_history"][0]["payment_id"]
    yield "made", f"On which date was reservation {code} made?", told["created_at"][:10]
    for person in told["passengers"]:
        yield "birth", f"Which date of birth do you have for {_name(person)} on the trip {route}?", person["dob"]


def _known(told: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    who, address = f"{told['name']['first_name']} {told['name']['last_name']}", told["address"]
    yield "email", f"Which email address is on file for {who}?", told["email"]
    yield "zip", f"{who} here, what is the postal code in my profile, the one in {address['city']}?", address["zip"]
    methods = list(told["payment_methods"].values())
    amounts = [method.get("amount") for method in methods]
    for method in methods:
        if method["source"] == "credit_card":
            card = f"the {method['brand']} card ending in {method['last_four']}"
            yield "card", f"What is the payment id of {card}?", method["id"]
        elif amounts.count(method["amount"]) == 1:
            kind = method["source"].replace("_", " ")
            yield "balance", f"What is the id of {who}'s {kind} with ${method['amount']} on it?", method["id"]


def _offered(told: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for flight in told[:2]:
        number, route = flight["flight_number"], _route(flight)
        yield "price", f"How much was business class on {number} {route}?", str(flight["prices"]["business"])
        yield "leaves", f"At what time does {number} leave?", flight["scheduled_departure_time_est"][:5]


def _refunded(content: str) -> Iterator[tuple[str, str, str]]:
    amounts, codes = re.findall(r"\$[\d,.]*\d", content), re.findall(r"\b(?=\w*\d)[A-Z0-9]{6}\b", content)
    if "refund" in content and len(amounts) == 1 and codes and not codes[0].startswith("HAT"):
        yield "refund", f"How much money did you say I get back for {codes[0]}?", amounts[0].removeprefix("$")


def _route(told: dict[str, Any]) -> str:
    return f"from {CITIES[told['origin']]} to {CITIES[told['destination']]}"


def _name(person: dict[str, Any]) -> str:
    return f"{person['first_name']} {person['last_name']}"


def _day(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day:%B} {day.day}"
