"""HTTP routes, by subject."""

from litestar.handlers import HTTPRouteHandler

from api.routes import about, analytics, approvals, budgets, feed, history, limits, stream, threads, turns, verification

ROUTES = [
    route
    for subject in (turns, approvals, threads, budgets, limits, history, stream, verification, analytics, feed, about)
    for route in vars(subject).values()
    if isinstance(route, HTTPRouteHandler)
]
