"""The shop's own systems, which the desk calls: orders, labels, payments and mail. Nothing here knows of agents.

Each effect is a line of the file that `SHOP_JOURNAL` names (without one, an element of a list), so that it can be
counted afterwards. Labels and payments take an idempotency key, as such services do; mail does not.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Order:
    """An order: whose it is, and what was bought for how many dollars."""

    id: str
    customer: str
    items: Mapping[str, int]


@dataclass(frozen=True)
class Effect:
    """Something that the shop did."""

    kind: str
    subject: str
    detail: str
    key: str = ""


ORDERS = (
    Order("A-17", "mia", {"kettle": 90, "mug": 20, "teapot": 70}),
    Order("A-18", "mia", {"tea towel": 12}),
    Order("B-20", "noah", {"lamp": 60}),
)


class Shop:
    """The orders, and what was done."""

    def __init__(self, journal: str | None = None) -> None:
        self._journal = Path(journal) if journal else None
        self._effects: list[Effect] = []

    @property
    def effects(self) -> Sequence[Effect]:
        """Everything that was done, in order."""
        if self._journal is None:
            return self._effects
        lines = self._journal.read_text(encoding="utf-8").splitlines() if self._journal.exists() else []
        return [Effect(**json.loads(line)) for line in lines]

    def forget(self) -> None:
        """Forget what was done, between tests."""
        self._effects.clear()

    def find(self, customer: str, text: str) -> Order | None:
        """Return the order of this customer whose number is in a text."""
        numbers = re.findall(r"[A-Z]-\d+", text)
        return next((one for one in ORDERS if one.customer == customer and one.id in numbers), None)

    def label(self, order: str, key: str) -> str:
        """Print a label for a parcel."""
        self._do(Effect("label", order, "", key))
        return f"label-{order}.pdf"

    def refund(self, order: str, dollars: int, key: str) -> str:
        """Pay money back."""
        self._do(Effect("refund", order, str(dollars), key))
        return f"refunded {dollars} dollars"

    def mail(self, customer: str, text: str) -> str:
        """Send a mail. Called twice, it sends two."""
        self._do(Effect("mail", customer, text))
        return "sent"

    def _do(self, effect: Effect) -> None:
        if effect.key and effect.key in {done.key for done in self.effects}:
            return
        if self._journal is None:
            self._effects.append(effect)
            return
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(effect)) + "\n")
            file.flush()
            os.fsync(file.fileno())


SHOP = Shop(os.environ.get("SHOP_JOURNAL"))
