"""An agent of the OpenAI Agents SDK. EXTRA_AGENT_RUNTIMES=weather-openai=docs.examples.openai_agents_agent.agent"""

import os

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, function_tool
from openai import AsyncOpenAI

from chat.agents.adapters.openai_agents import OpenAIAgentsAgent


@function_tool
async def forecast(city: str) -> dict[str, str]:
    """Tomorrow's weather."""
    return {"city": city, "sky": "clear"}


@function_tool(needs_approval=True)
async def book_picnic(city: str) -> str:
    """Book a picnic for tomorrow."""
    return f"booked in {city}"


client = AsyncOpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL") or None, api_key=os.environ.get("OPENAI_API_KEY", "none")
)
weather = Agent(
    "weather",
    tools=[forecast, book_picnic],
    model=OpenAIChatCompletionsModel(os.environ.get("AGENT_MODEL", "gpt-4o-mini"), client),
    model_settings=ModelSettings(include_usage=True),
)
agent = OpenAIAgentsAgent(weather)
