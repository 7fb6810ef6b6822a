"""Pinned messages and what belongs to them."""

from typing import Any

import pytest

from sessions_app.errors import PinnedTooLargeError
from sessions_app.memory import pinned_messages
from sessions_app.models import AgentSession, AgentType, Message, Role, Run
from sessions_app.services.pinning import set_pinned
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(user: Any) -> AgentSession:
    AgentType.objects.create(name="small", runtime="demo", max_context_tokens=1_000)  # pins may take 375
    return create_session(owner=user, agent_type="small")


@pytest.fixture
def said(session: AgentSession) -> dict[str, Message]:
    """A turn with two answers that call tools; a call's id is known in its turn only."""
    found = {}
    for turn in (1, 2):
        run = Run.objects.create(session=session, turn=turn, status="succeeded")
        calls = [[{"id": f"c{number}", "name": "clock", "arguments": {}} for number in pair] for pair in ((1, 2), (3,))]
        rows: list[dict[str, Any]] = [
            {"role": Role.USER, "content": f"question {turn}"},
            {"role": Role.ASSISTANT, "content": f"first {turn}", "tool_calls": calls[0]},
            {"role": Role.TOOL, "content": f"one {turn}", "tool_call_id": "c1"},
            {"role": Role.TOOL, "content": f"two {turn}", "tool_call_id": "c2"},
            {"role": Role.ASSISTANT, "content": f"second {turn}", "tool_calls": calls[1]},
            {"role": Role.TOOL, "content": f"three {turn}", "tool_call_id": "c3"},
            {"role": Role.ASSISTANT, "content": f"answer {turn}"},
        ]
        for position, row in enumerate(rows):
            place = {"session": session, "run": run, "turn": turn, "position": position, "token_count": 100}
            found[row["content"]] = Message.objects.create(**place, **row)
    return found


def pin(session: AgentSession, message: Message, is_pinned: bool = True) -> None:
    set_pinned(user=session.owner, session_id=session.pk, message_id=message.pk, is_pinned=is_pinned)


def pinned(session: AgentSession) -> list[str]:
    return [message.content for message in pinned_messages(session.pk, turn=1_000)]


@pytest.mark.parametrize("which", ["first 1", "one 1", "two 1"])
def test_a_call_is_pinned_with_its_results_and_no_others(
    session: AgentSession, said: dict[str, Message], which: str
) -> None:
    pin(session, said[which])
    assert pinned(session) == ["first 1", "one 1", "two 1"]
    pin(session, said[which], is_pinned=False)
    assert pinned(session) == []


def test_pins_of_several_turns_stand_in_order(session: AgentSession, said: dict[str, Message]) -> None:
    pin(session, said["three 2"])
    pin(session, said["question 1"])
    assert pinned(session) == ["question 1", "second 2", "three 2"]


def test_what_belongs_to_a_pinned_message_counts_too(session: AgentSession, said: dict[str, Message]) -> None:
    pin(session, said["question 1"])
    with pytest.raises(PinnedTooLargeError, match="400 tokens; this agent has room for 3"):
        pin(session, said["one 1"])
    assert pinned(session) == ["question 1"]
    pin(session, said["answer 1"])
    pin(session, said["question 1"])  # it is: nothing changes
    assert pinned(session) == ["question 1", "answer 1"]
