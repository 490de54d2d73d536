"""What calls of models add up to: by model, and by window of time."""

from datetime import datetime

from domain.events import ModelCalled
from domain.state import ModelUsage, WindowUsage
from domain.windows import WINDOWS, Window, start_of


def used(usage: tuple[ModelUsage, ...], event: ModelCalled) -> tuple[ModelUsage, ...]:
    """Add a call to what was used of its model."""
    before = next((model for model in usage if model.model == event.model), ModelUsage(event.model))
    after = ModelUsage(
        event.model,
        before.calls + 1,
        before.prompt_tokens + event.prompt_tokens,
        before.completion_tokens + event.completion_tokens,
    )
    return (*(model for model in usage if model is not before), after)


def used_in(windows: tuple[WindowUsage, ...], event: ModelCalled, at: datetime) -> tuple[WindowUsage, ...]:
    """Add a call to what was used in the windows that it lies in; those that have ended begin anew."""
    before = {each.window: each for each in windows}

    def current(window: Window) -> WindowUsage:
        start, last = start_of(window, at), before.get(window)
        usage = last.usage if last and last.start == start else ()
        return WindowUsage(window, start, used(usage, event))

    return tuple(current(window) for window in WINDOWS if window != "lifetime")
