"""A thread's budget, computed a second time in a naive way, as `naive` does the rest."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from tests.support.naive import Json, written

SHARED = {"hour": 13, "day": 10, "month": 7, "lifetime": 0}
"""How much of an instant, as it is written, is the same throughout a window."""


def limits(events: Sequence[Json]) -> list[Json]:
    """The limits that the last budget has."""
    return next((event["data"].get("limits", []) for event in reversed(events) if event["type"] == "BudgetSet"), [])


def spent(events: Sequence[Json], window: str, at: str) -> dict[str, list[int]]:
    """Calls and tokens by model in the window that an instant lies in."""
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for event in events:
        if event["type"] == "ModelCalled" and event["recorded_at"][: SHARED[window]] == at[: SHARED[window]]:
            data = event["data"]
            for index, number in enumerate((1, data["prompt_tokens"], data["completion_tokens"])):
                found[data["model"]][index] += number
    return found


def cached(events: Sequence[Json], window: str, at: str, model: str) -> int:
    """Tokens of a model's prompts that its endpoint had in a cache, in the window that an instant lies in."""
    return sum(
        event["data"].get("cached", 0)
        for event in events
        if event["type"] == "ModelCalled" and event["data"]["model"] == model
        if event["recorded_at"][: SHARED[window]] == at[: SHARED[window]]
    )


def cost(used: dict[str, list[int]], prices: dict[str, tuple[int, int]]) -> int:
    """What tokens cost, by the prices of a token in millionths of a millionth of a dollar."""
    return sum(prices[model][0] * prompt + prices[model][1] * answer for model, (_, prompt, answer) in used.items())


def over(events: Sequence[Json], at: str, prices: dict[str, tuple[int, int]]) -> list[str]:
    """The windows whose limits are reached at an instant after these events."""
    found = []
    for limit in limits(events):
        used = spent(events, limit["window"], at)
        tokens, money = sum(prompt + answer for _, prompt, answer in used.values()), cost(used, prices)
        if tokens >= limit.get("tokens", tokens + 1) or money >= limit.get("cost", money + 1):
            found.append(limit["window"])
    return found


def over_since(events: Sequence[Json], at: str, prices: dict[str, tuple[int, int]]) -> str | None:
    """Since when the thread has been over its budget at an instant, without a break; None if it is not."""
    since: str | None = None
    own = max((place for place, event in enumerate(events) if event["type"] == "ThreadForked"), default=0)
    for place, event in enumerate(events):
        if place < own or event["type"] not in {"ThreadForked", "BudgetSet", "ModelCalled"}:
            continue
        if since is None or not over(events[:place], event["recorded_at"], prices):
            since = event["recorded_at"]
        if not over(events[: place + 1], event["recorded_at"], prices):
            since = None
    return since if over(events, at, prices) else None


def bounds(window: str, at: str) -> tuple[str | None, str | None]:
    """Where the window begins and ends that an instant lies in."""
    if window == "lifetime":
        return None, None
    start = datetime.fromisoformat(at[: SHARED[window]] + "-01T00:00:00.000000Z"[SHARED[window] - 7 :])
    longer = {"hour": timedelta(hours=1), "day": timedelta(days=1), "month": timedelta(days=31)}[window]
    end = start + longer if window != "month" else (start + longer).replace(day=1)
    return written(start), written(end)


def budget(events: Sequence[Json], at: str, prices: dict[str, tuple[int, int]]) -> Json:
    """A thread's budget, as `/budget` shows it but for the hash, after some of its events and at an instant."""
    limited = {limit["window"]: limit for limit in limits(events)}
    reached = over(events, at, prices)
    windows = []
    for window in ("hour", "day", "month", "lifetime"):
        if window not in limited and window != "lifetime":
            continue
        used = spent(events, window, at)
        models = [
            {
                "model": model,
                "calls": calls,
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "cached_tokens": cached(events, window, at, model),
                "tokens": prompt + answer,
                "cost_usd": cost({model: [calls, prompt, answer]}, prices) / 10**12,
            }
            for model, (calls, prompt, answer) in sorted(used.items())
        ]
        tokens, money = sum(prompt + answer for _, prompt, answer in used.values()), cost(used, prices)
        start, end = bounds(window, at)
        shown = {"window": window, "start": start, "end": end, "tokens": tokens, "cost_usd": money / 10**12}
        left = None
        if limit := limited.get(window):
            left = {
                "tokens": max(limit["tokens"] - tokens, 0) if "tokens" in limit else None,
                "cost_usd": max(limit["cost"] - money, 0) / 10**12 if "cost" in limit else None,
            }
        windows.append({**shown, "models": models, "left": left, "over": window in reached})
    return {
        "version": events[-1]["version"],
        "at": at,
        "limits": [
            {
                "window": window,
                "tokens": limit.get("tokens"),
                "cost_usd": limit["cost"] / 10**12 if "cost" in limit else None,
                "warn_at": limit.get("warn_at", 0.8),
            }
            for window, limit in limited.items()
        ],
        "windows": windows,
        "over": bool(reached),
        "until": bounds(reached[-1], at)[1] if reached else None,
    }
