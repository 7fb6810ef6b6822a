"""From an agent type's runtime to the agent, and from tool names to tools, by the dotted paths in the settings."""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, cast

from django.conf import settings
from django.utils.module_loading import import_string

from chat.agents.adapters.generator import GeneratorAgent
from chat.agents.base import Agent, AgentError
from chat.agents.mcp_pool import mcp_pool
from chat.agents.tools.base import Tool
from sessions_app.agent_config import AgentConfig


@cache
def agent_for(runtime: str) -> Agent:
    """The process's one agent of this runtime; raises AgentError if the settings do not name it.

    What stands there may be a class, an agent that is made already, or an async generator function.
    """
    path = settings.AGENT_RUNTIMES.get(runtime)
    if path is None:
        raise AgentError(f"The runtime {runtime!r} is not in AGENT_RUNTIMES.")
    found: Any = import_string(path)
    if inspect.isasyncgenfunction(found):
        return GeneratorAgent(found)
    return cast(Agent, found() if inspect.isclass(found) else found)


async def find_tools(config: AgentConfig, tell: Callable[[dict[str, Any]], None]) -> dict[str, Tool]:
    """The tools of an agent type by name, in its order, those of its MCP servers last.

    Raises AgentError if the settings lack one; `tell` is told of servers that cannot be reached.
    """
    tools = tools_for(config.tools)
    if config.mcp_servers:
        tools |= {**await mcp_pool().tools_of(config.mcp_servers, tell), **tools}
    return tools


def tools_for(names: Iterable[str]) -> dict[str, Tool]:
    """Tools by name, in the order given; raises AgentError if the settings do not name one."""
    return {name: _tool(name) for name in names}


@cache
def _tool(name: str) -> Tool:
    path = settings.AGENT_TOOLS.get(name)
    if path is None:
        raise AgentError(f"The tool {name!r} is not in AGENT_TOOLS.")
    tool: Tool = import_string(path)
    return tool
