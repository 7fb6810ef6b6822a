"""Messages that go together: a tool call and its results are one unit, any other message is one by itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sessions_app.models import Role
from sessions_app.prompt import PromptMessage

# A call without a result is sent with a sentence in the result's place (chat.agents.loop).
MISSING_RESULT_TOKENS = 24


@dataclass(frozen=True)
class Unit:
    """Stays together or is left out together."""

    messages: tuple[PromptMessage, ...]
    tokens: int

    @property
    def turn(self) -> int:
        return self.messages[0].turn

    @property
    def ids(self) -> set[int]:
        return {message.id for message in self.messages}


def units_of(messages: Iterable[PromptMessage]) -> list[Unit]:
    """The units of messages in the conversation's order; results whose call is not among them are dropped."""
    units: list[list[PromptMessage]] = []
    unit_of_call: dict[str, list[PromptMessage]] = {}
    for message in messages:
        if message.role == Role.TOOL:
            if (unit := unit_of_call.get(message.tool_call_id)) is not None:
                unit.append(message)
            continue
        units.append([message])
        for call in message.tool_calls:
            unit_of_call[call["id"]] = units[-1]
    return [as_unit(unit) for unit in units]


def as_unit(messages: Sequence[PromptMessage]) -> Unit:
    missing = len(messages[0].tool_calls) - (len(messages) - 1)
    tokens = sum(message.token_count for message in messages) + max(0, missing) * MISSING_RESULT_TOKENS
    return Unit(tuple(messages), tokens)


def messages_of(units: Iterable[Unit]) -> list[PromptMessage]:
    return [message for unit in units for message in unit.messages]


def tokens_of(units: Iterable[Unit]) -> int:
    return sum(unit.tokens for unit in units)
