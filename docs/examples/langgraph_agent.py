"""A LangGraph graph. EXTRA_AGENT_RUNTIMES=weather-langgraph=docs.examples.langgraph_agent.agent"""

import os
from typing import Annotated, Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from chat.agents.adapters.langgraph import LangGraphAgent


@tool
async def forecast(city: str) -> dict[str, str]:
    """Tomorrow's weather."""
    return {"city": city, "sky": "clear"}


@tool
async def book_picnic(city: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> ToolMessage | str:
    """Book a picnic for tomorrow."""
    said = interrupt({"tool_call_id": tool_call_id})
    if not said["approved"]:
        return ToolMessage(said["reason"], tool_call_id=tool_call_id, status="error")
    return f"booked in {said['args']['city']}"


model = ChatOpenAI(
    model=os.environ.get("AGENT_MODEL", "gpt-4o-mini"),
    base_url=os.environ.get("OPENAI_BASE_URL"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),  # type: ignore[arg-type]
    stream_usage=True,
).bind_tools([forecast, book_picnic])


async def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_node("tools", ToolNode([forecast, book_picnic]))
graph.add_edge(START, "answer")
graph.add_conditional_edges("answer", tools_condition)
graph.add_edge("tools", "answer")

agent = LangGraphAgent(graph.compile())
