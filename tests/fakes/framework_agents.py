"""Agents of frameworks with a tool that takes its time and leaves a line in a file whenever it starts."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

from langchain_core.tools import InjectedToolCallId
from langchain_core.tools import tool as langchain_tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from chat.agents.adapters.langgraph import LangGraphAgent
from chat.agents.adapters.pydantic_ai import PydanticAIAgent

URL, MODEL = os.environ.get("OPENAI_BASE_URL", ""), "fake-model"


async def _work() -> str:
    with Path(os.environ["TOOL_LOG"]).open("a") as log:
        log.write("started\n")
    await asyncio.sleep(600)
    return "late"


_pydantic = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL or None, api_key="none")))


@_pydantic.tool_plain(requires_approval=True)
async def charge(amount: int) -> str:
    """Charge a card."""
    return await _work()


@langchain_tool("charge")
async def langchain_charge(amount: int, tool_call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Charge a card."""
    interrupt({"tool_call_id": tool_call_id})
    return await _work()


_model = ChatOpenAI(model=MODEL, base_url=URL or None, api_key="none", stream_usage=True).bind_tools(  # type: ignore[arg-type]
    [langchain_charge]
)


async def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await _model.ainvoke(state["messages"])]}


_graph = StateGraph(MessagesState)
_graph.add_node("answer", _answer)
_graph.add_node("tools", ToolNode([langchain_charge]))
_graph.add_edge(START, "answer")
_graph.add_conditional_edges("answer", tools_condition)
_graph.add_edge("tools", "answer")

pydantic_agent = PydanticAIAgent(_pydantic)
langgraph_agent = LangGraphAgent(_graph.compile())
