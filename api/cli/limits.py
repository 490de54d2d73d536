"""`threadfold limits`."""

import re
from typing import cast, get_args

import click

from api.cli.bootstrap import answer, here
from api.cli.options import limited
from api.cli.output import as_json, moment, show_table
from api.http.caller import Caller
from api.schemas.budget import Left, LimitView
from api.schemas.limits import AmountView, CountedLimit, LimitsView, ScopeView, Setting, scope_of
from api.services.threads import Service
from domain.errors import InvalidInput
from domain.money import units
from domain.thread.events import Limit
from domain.windows import Span

SHARE = click.FloatRange(0, 1, min_open=True)
MONEY = r"\d{1,9}(?:\.\d{1,12})?"
FORM = re.compile(rf"({'|'.join(get_args(Span))})=(?:(\d{{1,16}})(?:,({MONEY})usd)?|({MONEY})usd)")


def parse_limit(text: str) -> Limit:
    """Parse a limit such as `day=100000` or `month=25usd`: a window, and tokens, dollars or both."""
    match = FORM.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a limit; examples: day=100000, month=25usd, turn=9000,0.5usd")
    window, tokens, dollars = cast(Span, match[1]), match[2], match[3] or match[4]
    return Limit(window, int(tokens) if tokens else None, units(float(dollars)) if dollars else None)


@click.group()
def limits() -> None:
    """Limit what agents, models and customers may spend. Times are in UTC."""


@limits.command("list")
@click.option("--subject", help="Only limits of this customer.")
@as_json
def list_limits(*, subject: str | None, as_json: bool) -> None:
    """Show all limits: what is spent, what is reserved for calls in flight, and what is left."""
    answer(lambda service: service.limits.show(Caller(), subject), _show, as_json=as_json)


@limits.command("set")
@click.argument("given", metavar="[LIMIT]...", type=parse_limit, nargs=-1)
@click.option("--subject", help="Only calls in threads about this customer.")
@click.option("--agent", help="Only calls of this agent.")
@click.option("--model", help="Only calls of this model.")
@click.option("--warn-at", type=SHARE, default=0.8, show_default=True, help="The warning threshold, a share.")
@as_json
def set_limits(
    *,
    given: tuple[Limit, ...],
    subject: str | None,
    agent: str | None,
    model: str | None,
    warn_at: float,
    as_json: bool,
) -> None:
    """Replace the limits, such as by day=100000 or month=25usd; without a LIMIT, lift them."""
    if subject == "":
        raise click.BadParameter("must not be empty", param_hint="--subject")
    wanted = tuple(Limit(limit.window, limit.tokens, limit.cost, warn_at) for limit in given)

    async def setting(service: Service) -> LimitsView:
        await service.runtime.catch_up()
        caller = here()
        try:
            return await service.limits.set(scope_of(caller.tenant, subject, agent, model), wanted, caller)
        except InvalidInput as error:
            hint = f"--{error.field}" if error.field in {"subject", "agent", "model"} else "LIMIT"
            raise click.BadParameter(error.why, param_hint=hint) from error

    answer(setting, _show, as_json=as_json)


@limits.command()
@limited
@as_json
def history(*, limit: int, as_json: bool) -> None:
    """List what was set and lifted, when and by whom, newest first."""
    answer(
        lambda service: service.limits.history(Caller(), limit),
        lambda found: show_table(["SET (UTC)", "BY", "SUBJECT", "AGENT", "MODEL", "LIMITS"], map(_setting, found)),
        as_json=as_json,
    )


def _show(view: LimitsView) -> None:
    rows = [_row(scope, limit) for scope in view.scopes for limit in scope.limits]
    headings = ["SUBJECT", "AGENT", "MODEL", "WINDOW", "LIMIT", "SPENT", "RESERVED", "LEFT", ""]
    show_table(headings, rows, empty="Nothing is limited.")


def _row(scope: ScopeView, limit: CountedLimit) -> list[str]:
    now = limit.now
    counts = [_amount(now.spent), _amount(now.reserved), _amount(now.left)] if now else [""] * 3
    state = "over" if now and now.over else "strained" if now and now.strained else ""
    return [
        scope.subject or "any",
        scope.agent or "any",
        scope.model or "any",
        limit.window,
        _amount(limit),
        *counts,
        state,
    ]


def _setting(one: Setting) -> list[str]:
    limits = "; ".join(f"{limit.window}: {_amount(limit)}" for limit in one.limits)
    return [
        moment(one.set_at),
        one.actor or "",
        one.subject or "any",
        one.agent or "any",
        one.model or "any",
        limits or "lifted",
    ]


def _amount(of: LimitView | CountedLimit | AmountView | Left) -> str:
    tokens = [] if of.tokens is None else [f"{of.tokens:,}"]
    return ", ".join([*tokens, *([] if of.cost_usd is None else [f"${of.cost_usd:,.12g}"])])
