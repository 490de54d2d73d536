"""Adds up model calls, by model and by window of time."""

from datetime import datetime

from domain.thread.events import ModelCalled
from domain.thread.state import ModelUsage, WindowUsage
from domain.windows import Window, starts_of


def add_usage(usage: tuple[ModelUsage, ...], event: ModelCalled) -> tuple[ModelUsage, ...]:
    """Add a call to the usage of its model."""
    calls, prompt_tokens, completion_tokens = 1, event.prompt_tokens, event.completion_tokens
    cached_tokens, others = event.cached, []
    for each in usage:
        if each.model == event.model:
            calls += each.calls
            prompt_tokens += each.prompt_tokens
            completion_tokens += each.completion_tokens
            cached_tokens += each.cached_tokens
        else:
            others.append(each)
    return (*others, ModelUsage(event.model, calls, prompt_tokens, completion_tokens, cached_tokens))


def add_window_usage(windows: tuple[WindowUsage, ...], event: ModelCalled, at: datetime) -> tuple[WindowUsage, ...]:
    """Add a call to the windows that contain it. A window that has ended is replaced by an empty one first."""
    before = {each.window: each for each in windows}

    def current(window: Window, start: datetime) -> WindowUsage:
        last = before.get(window)
        usage = last.usage if last and last.start == start else ()
        return WindowUsage(window, start, add_usage(usage, event))

    return tuple([current(window, start) for window, start in starts_of(at).items() if window != "lifetime"])
