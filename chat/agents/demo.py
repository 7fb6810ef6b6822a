"""The built-in agent that needs no model: deterministic and offline, but it thinks, uses real tools and streams."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
from django.conf import settings

from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, ModelAnswer, Text, Thought, ToolCall
from chat.agents.loop import run_tool_loop
from chat.agents.tools.clock import find_zone

_EXPRESSION = re.compile(r"(?:sqrt|abs|round|min|max)\([\d\s.,^*/+-]*\)|[\d(][\d\s().^*/%×÷+-]*[\d)]")
_OPERATOR = re.compile(r"[-+*/%^×÷]|[a-z]\(")
_DATE_OR_PHONE = re.compile(r"\d+(-\d+)+")
_TIME = re.compile(r"\b(time|clock|date|day|hour|o'clock)\b", re.IGNORECASE)
_PLACES = re.compile(r"\b[A-Z][\w/]*(?: [A-Z][\w/]*)*")
_SEARCH = re.compile(r"\b(?:search|find|look up|remember|recall)\b(.*)", re.IGNORECASE | re.DOTALL)
_FILLER = frozenset(
    [
        "a",
        "about",
        "an",
        "chat",
        "conversation",
        "did",
        "earlier",
        "for",
        "i",
        "in",
        "me",
        "messages",
        "my",
        "of",
        "our",
        "said",
        "the",
        "this",
        "we",
        "what",
        "you",
    ]
)
_NOTE = re.compile(r"^\s*(?:please )?note(?: that|:)\s+(.+)", re.IGNORECASE | re.DOTALL)
_COUNT = re.compile(r"\bcount (?:up )?to (\d{1,4})\b", re.IGNORECASE)
_MAX_CALLS = 6

_HELP = """I am the **demo agent**: no model stands behind me, but my tools are real. Try one of these:

- `What is (12 + 30) * 7?` uses the calculator
- `What time is it in Tokyo and New York?` asks two clocks at once
- `Search for calculator` looks through this conversation
- `Note: the milk is in the fridge` keeps a note in this conversation's state, once you have approved it
- `Count to 200` streams a long answer, which you may stop

```python
async def stream(self, context):
    yield Text("An agent of your own takes a few lines.")
```
"""


class DemoAgent:
    """Reads what is asked by simple patterns, calls tools where they fit, and says what they found."""

    def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        return run_tool_loop(self, context)

    async def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]:
        results = _results_since_question(messages)
        if results:
            thought, text = "The tools have answered, so I can put it together.", _from_results(results)
            calls: tuple[ToolCall, ...] = ()
        else:
            calls = tuple(plan(context.message, context.run_id.hex[:8], set(context.tools)))
            thought, text = _explain(calls), "" if calls else _without_tools(context.message)
        async for piece in _paced(thought):
            yield Thought(piece)
        async for piece in _paced(text):
            yield Text(piece)
        yield ModelAnswer(tool_calls=calls)


async def _paced(text: str) -> AsyncIterator[str]:
    """Word by word; the first leaves at once."""
    for piece in re.findall(r"\S+\s*|\s+", text):
        yield piece
        await asyncio.sleep(settings.DEMO_DELAY_MS / 1_000)


def plan(message: str, prefix: str, tools: set[str]) -> Iterator[ToolCall]:
    """The calls that a request needs, all at once; `prefix` makes their ids unique."""
    note = _NOTE.match(message)
    if note and "save_note" in tools:
        yield ToolCall(f"call_{prefix}_1", "save_note", {"text": note[1].strip()})
        return
    wanted = [*_calculations(message), *_clocks(message), *_searches(message)]
    usable = [(tool, args) for tool, args in wanted if tool in tools]
    for number, (tool, args) in enumerate(usable[:_MAX_CALLS], 1):
        yield ToolCall(f"call_{prefix}_{number}", tool, args)


def _calculations(message: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for match in _EXPRESSION.finditer(message):
        if _OPERATOR.search(match[0]) and not _DATE_OR_PHONE.fullmatch(match[0]):
            yield "calculator", {"expression": match[0]}


def _clocks(message: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not _TIME.search(message):
        return
    zones = [zone for zone in map(find_zone, _PLACES.findall(message)) if zone]
    for zone in dict.fromkeys(zones or ["UTC"]):
        yield "clock", {"timezone": zone}


def _searches(message: str) -> Iterator[tuple[str, dict[str, Any]]]:
    match = _SEARCH.search(message)
    if match is None:
        return
    quoted = re.findall(r"[\"“']([^\"”']+)[\"”']", match[1])
    words = [word for word in re.findall(r"[\w-]+", match[1]) if word.casefold() not in _FILLER]
    query = quoted[0] if quoted else " ".join(words[:3])
    if query:
        yield "search_conversation", {"query": query}


def _explain(calls: tuple[ToolCall, ...]) -> str:
    if not calls:
        return "No tool is needed for this, I can answer at once."
    names = " and ".join(dict.fromkeys(call.tool for call in calls))
    together = ", all at the same time" if len(calls) > 1 else ""
    return f"This needs {len(calls)} tool call{'s' if len(calls) > 1 else ''}{together}: {names}."


def _without_tools(message: str) -> str:
    match = _COUNT.search(message)
    if match:
        return " ".join(str(number) for number in range(1, int(match[1]) + 1)) + "."
    said = " ".join(message.split())
    shown = said if len(said) <= 200 else said[:199] + "…"
    return f"You said: {shown}\n\n{_HELP}"


def _results_since_question(messages: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """(call, result) for the tools that ran since the user's message."""
    last_user = max(index for index, message in enumerate(messages) if message["role"] == "user")
    since = messages[last_user:]
    results = {message["tool_call_id"]: message["content"] for message in since if message["role"] == "tool"}
    calls = [call for message in since for call in message.get("tool_calls", ())]
    return [(call["function"], results.get(call["id"], "")) for call in calls]


def _from_results(results: list[tuple[dict[str, Any], str]]) -> str:
    return "\n".join(_line(call["name"], orjson.loads(call["arguments"]), text) for call, text in results)


def _line(tool: str, args: dict[str, Any], text: str) -> str:
    try:
        result = orjson.loads(text)
    except orjson.JSONDecodeError:
        return f"- {text}"
    if tool == "calculator":
        return f"- `{args['expression']}` = **{result}**"
    if tool == "clock":
        return f"- In {result['timezone']} it is **{result['time']}** on {result['weekday']}, {result['date']}."
    if tool == "save_note":
        return f"- Noted; the conversation's notes: {', '.join(result['notes'])}."
    if not result:
        return f"- Nothing in this conversation matches “{args['query']}”."
    found = "\n".join(f"  - {hit['role']}, {hit['date']}: {hit['text']}" for hit in result)
    return f"- Found for “{args['query']}”:\n{found}"
