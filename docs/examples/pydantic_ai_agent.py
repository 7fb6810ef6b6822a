"""A pydantic-ai agent. EXTRA_AGENT_RUNTIMES=weather-pydantic=docs.examples.pydantic_ai_agent.agent"""

import os

from pydantic_ai import Agent, RunContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from chat.agents.adapters.pydantic_ai import PydanticAIAgent

# Any model of pydantic-ai will do: Agent("anthropic:claude-...") needs no more than its key.
provider = OpenAIProvider(base_url=os.environ.get("OPENAI_BASE_URL"), api_key=os.environ.get("OPENAI_API_KEY", "none"))
weather = Agent(OpenAIChatModel(os.environ.get("AGENT_MODEL", "gpt-4o-mini"), provider=provider), deps_type=object)


@weather.tool
async def forecast(context: RunContext[object], city: str) -> dict[str, str]:
    """Tomorrow's weather."""
    return {"city": city, "sky": "clear"}


@weather.tool_plain(requires_approval=True)
async def book_picnic(city: str) -> str:
    """Book a picnic for tomorrow."""
    return f"booked in {city}"


agent = PydanticAIAgent(weather)
