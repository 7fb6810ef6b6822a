"""Any async generator as an agent: what it yields as text is the answer."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, Text


class GeneratorAgent:
    """`generate(context)` yields texts, or the events of chat/agents/events.py where it has more to tell."""

    def __init__(self, generate: Callable[[RunContext], AsyncGenerator[Any]]) -> None:
        self._generate = generate

    async def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        async with aclosing(self._generate(context)) as events:
            async for event in events:
                yield Text(event) if isinstance(event, str) else event
