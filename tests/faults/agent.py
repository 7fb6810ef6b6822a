"""An agent whose every word is known in advance, with tools that keep a log of their own."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, ModelAnswer, Text, Thought, ToolCall
from chat.agents.loop import run_tool_loop
from chat.agents.tools.base import Tool, ToolContext

WORDS = 12  # of each answer
PAUSE_SECONDS = 0.01


class StepAgent:
    """Asked for `steps=3`, it answers three times with tools, and then once more."""

    def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        return run_tool_loop(self, context)

    async def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]:
        asked = max(index for index, message in enumerate(messages) if message["role"] == "user")
        step = sum(message["role"] == "assistant" for message in messages[asked:])
        yield Thought(f"thinking {step}. ")
        for word in words(step):
            yield Text(word)
            await asyncio.sleep(PAUSE_SECONDS)
        calls = step < steps_of(context.message)
        yield ModelAnswer(
            (ToolCall(f"charge-{step}", "charge", {"step": step}), ToolCall(f"note-{step}", "note", {"step": step}))
            if calls
            else ()
        )


def steps_of(message: str) -> int:
    match = re.search(r"steps=(\d+)", message)
    return int(match[1]) if match else 0


def words(step: int) -> list[str]:
    return [f"s{step}w{number} " for number in range(WORDS)]


def whole_answers(message: str) -> list[str]:
    """The texts of the answers that a run of this message must have on record."""
    return ["".join(words(step)) for step in range(steps_of(message) + 1)]


async def _charge(context: ToolContext, step: int) -> dict[str, Any]:
    _log(context, "charge")
    await asyncio.sleep(2 * PAUSE_SECONDS)
    return {"charged": step}


async def _note(context: ToolContext, step: int) -> dict[str, Any]:
    _log(context, "note")
    await asyncio.sleep(PAUSE_SECONDS)
    return {"noted": step}


def _log(context: ToolContext, tool: str) -> None:
    """One line in a file that no part of the system knows of: what really happened."""
    line = json.dumps({"tool": tool, "key": context.idempotency_key, "run_id": str(context.run_id), "at": time.time()})
    file = os.open(os.environ["FAULT_TOOL_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


_STEP = {"type": "object", "properties": {"step": {"type": "integer"}}, "required": ["step"]}
charge = Tool("charge", "Charge money: never to be repeated.", _STEP, _charge)
note = Tool("note", "Write a note: may be repeated.", _STEP, _note, is_idempotent=True)
