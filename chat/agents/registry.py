"""From an agent type's runtime to the agent, and from tool names to tools, by the dotted paths in the settings."""

from collections.abc import Iterable
from functools import cache

from django.conf import settings
from django.utils.module_loading import import_string

from chat.agents.base import Agent, AgentError
from chat.agents.tools.base import Tool


@cache
def agent_for(runtime: str) -> Agent:
    """The process's one agent of this runtime; raises AgentError if the settings do not name it."""
    path = settings.AGENT_RUNTIMES.get(runtime)
    if path is None:
        raise AgentError(f"The runtime {runtime!r} is not in AGENT_RUNTIMES.")
    agent: Agent = import_string(path)()
    return agent


def tools_for(names: Iterable[str]) -> dict[str, Tool]:
    """Tools by name, in the order given; raises AgentError if the settings do not name one."""
    return {name: _tool(name) for name in names}


def idempotent_among(names: Iterable[str]) -> frozenset[str]:
    """Those of the tools that may be repeated without harm."""
    known = [name for name in names if name in settings.AGENT_TOOLS]
    return frozenset(name for name in known if _tool(name).is_idempotent)


@cache
def _tool(name: str) -> Tool:
    path = settings.AGENT_TOOLS.get(name)
    if path is None:
        raise AgentError(f"The tool {name!r} is not in AGENT_TOOLS.")
    tool: Tool = import_string(path)
    return tool
