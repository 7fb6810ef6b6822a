"""Any async generator as an agent: what it yields as text is the answer."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, Text


class GeneratorAgent:
    """`generate(context)` yields texts, or the events of chat/agents/events.py where it has more to tell."""

    def __init__(self, generate: Callable[[RunContext], AsyncIterator[Any]]) -> None:
        self._generate = generate

    async def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        events = self._generate(context)
        try:
            async for event in events:
                yield Text(event) if isinstance(event, str) else event
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()
