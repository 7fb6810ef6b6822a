"""The shortest agent: an async generator. EXTRA_AGENT_RUNTIMES=echo=docs.examples.generator_agent.echo"""

from collections.abc import AsyncIterator

from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, Thought


async def echo(context: RunContext) -> AsyncIterator[AgentEvent | str]:
    """Says what it was told, word by word."""
    yield Thought("I shall repeat that.")
    for word in context.message.split():
        yield word + " "
