"""An agent as somebody else would bring it."""

from collections.abc import AsyncIterator
from typing import Any

from chat.agents.base import RunContext
from chat.agents.events import Text, Thought, ToolCall, ToolResult


class OwnAgent:
    async def stream(self, context: RunContext) -> AsyncIterator[Any]:
        if context.message == "break":
            raise RuntimeError("secret")
        if context.message == "strange":
            yield "not an event"
        yield Thought("Backwards.")
        yield ToolCall("c1", "reverse", {"text": context.message})
        yield ToolResult("c1", "reverse", context.message[::-1])
        yield Text(context.message[::-1])
        yield Text(" \x00 \ud800")
