"""HTTP routes, by subject."""

from litestar.handlers import HTTPRouteHandler

from api.routes import (
    about,
    analytics,
    approvals,
    budgets,
    feed,
    history,
    identity,
    limits,
    replays,
    stream,
    threads,
    turn_list,
    turns,
    verification,
)

SUBJECTS = (
    turns,
    turn_list,
    approvals,
    threads,
    budgets,
    limits,
    history,
    replays,
    stream,
    verification,
    analytics,
    feed,
    identity,
    about,
)
ROUTES = [route for subject in SUBJECTS for route in vars(subject).values() if isinstance(route, HTTPRouteHandler)]
