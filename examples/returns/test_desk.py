"""What the desk does, without a server or a model."""

from examples.returns.agent import desk
from examples.returns.shop import SHOP
from threadfold.testing import Conversation, Line, Script, call

YES, NO = '{"accepted": true, "reason": "broken"}', '{"accepted": false, "reason": "used"}'


def talk(*lines: Line) -> Conversation:
    SHOP.forget()
    return Conversation(desk, Script(*lines), subject="mia")


async def test_a_person_approves_a_large_refund() -> None:
    mia = talk("return", YES, YES, NO)
    assert (await mia.say("My kettle is broken")).answer == "Which order is it about?"
    assert (await mia.say("It is B-20")).answer == "Which order is it about?", "an order of another customer"
    assert (await mia.say("A-17", crash="after ItemCompleted")).status == "crashed"
    assert (await mia.resume()).status == "waiting"
    assert (await mia.grant()).answer == "Your return: refunded 110 dollars. The mail about it: sent"
    assert [effect.kind for effect in SHOP.effects] == ["refund", "mail"]


async def test_a_crash_sends_no_second_mail() -> None:
    mia = talk("return", YES, YES, YES)
    await mia.say("I send A-17 back")
    await mia.deny("too late", crash="before ToolSucceeded")
    turn = await mia.resume()
    assert [effect.kind for effect in SHOP.effects] == ["mail"]
    assert "refused this: too late. The mail about it: It is not known" in (turn.answer or "")


async def test_a_customer_sees_only_orders_of_theirs() -> None:
    mia = talk("other", call("find_order", order="B-20"), "You have no such order.")
    turn = await mia.say("Where is B-20?")
    assert (turn.tools[0].outcome, turn.answer) == ("failed", "You have no such order.")
