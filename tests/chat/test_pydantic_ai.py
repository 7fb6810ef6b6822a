"""What pydantic-ai's agents do, with its own models for tests."""

import asyncio
import uuid
from typing import Any

from django.utils import timezone
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from chat.agents.adapters.pydantic_ai import PydanticAIAgent
from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, ModelAnswer, Text, ToolResult
from sessions_app.agent_config import AgentConfig
from sessions_app.prompt import PromptMessage


class Weather(BaseModel):
    city: str
    degrees: int


def run(agent: Agent[Any, Any], *messages: PromptMessage) -> list[AgentEvent]:
    context = RunContext(uuid.uuid4(), uuid.uuid4(), AgentConfig("a"), "Hi", [message(0, "user", "Hi"), *messages])

    async def collect() -> list[AgentEvent]:
        return [event async for event in PydanticAIAgent(agent).stream(context)]

    return asyncio.run(collect())


def message(position: int, role: str, content: str, calls: Any = (), call_id: str = "") -> PromptMessage:
    return PromptMessage(position, 1, position, role, content, calls, call_id, 1, timezone.now())


def text_of(events: list[AgentEvent]) -> str:
    return "".join(event.content for event in events if isinstance(event, Text))


def test_a_structured_output_is_told_as_json_and_is_no_tools_call() -> None:
    model = TestModel(custom_output_args={"city": "Rome", "degrees": 20})
    events = run(Agent(model, output_type=Weather))
    assert text_of(events) == '{"city":"Rome","degrees":20}'
    assert [call for event in events if isinstance(event, ModelAnswer) for call in event.tool_calls] == []


def test_a_tool_that_wants_to_be_called_again_is_an_error_result() -> None:
    agent = Agent(TestModel(call_tools=["look"]), retries=2)
    tries: list[int] = []

    @agent.tool_plain
    def look(x: int) -> str:
        """Look."""
        tries.append(x)
        if len(tries) == 1:
            raise ModelRetry("look closer")
        return "seen"

    results = [event for event in run(agent) if isinstance(event, ToolResult)]
    assert [result.is_error for result in results] == [True, False]
    assert "look closer" in results[0].result
    assert results[1].result == "seen"


def test_a_turn_that_was_taken_over_goes_on_from_its_record() -> None:
    seen: list[list[ModelMessage]] = []

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(messages)
        return ModelResponse(parts=[TextPart("done")])

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> Any:
        seen.append(messages)
        yield "done"

    calls = [{"id": "c1", "name": "look", "arguments": {"x": 1}}]
    on_record = [message(1, "assistant", "", calls), message(2, "tool", "seen", call_id="c1")]
    events = run(Agent(FunctionModel(answer, stream_function=stream)), *on_record)
    assert text_of(events) == "done"
    (asked,) = seen
    assert [type(each).__name__ for each in asked] == ["ModelRequest", "ModelResponse", "ModelRequest"]
    (part,) = asked[1].parts
    assert isinstance(part, ToolCallPart)
    assert (part.tool_call_id, part.args_as_dict()) == ("c1", {"x": 1})
