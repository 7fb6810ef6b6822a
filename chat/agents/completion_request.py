"""What a chat-completions server is sent. What stands in front is the same from step to step and from turn to turn, so
that the provider finds it in its cache."""

from typing import Any

from chat.agents.base import RunContext
from chat.agents.endpoints import Endpoint
from chat.latency import Technique, is_used

_CACHED = {"cache_control": {"type": "ephemeral"}}


def completion_request(
    model: str, endpoint: Endpoint, messages: list[dict[str, Any]], context: RunContext, max_output: int = 0
) -> dict[str, Any]:
    """The request's JSON object. `max_output` is what the budgets leave for the answer, 0 if they leave it alone."""
    if endpoint.has_cache_control and is_used(Technique.CACHING):
        messages = _with_cache_marks(messages)
    request: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if context.tools:
        request["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in context.tools.values()
        ]
    if limit := max_output or context.agent.max_output_tokens:
        # OpenAI has given it another name, which others do not know.
        name = "max_completion_tokens" if "api.openai.com" in endpoint.base_url else "max_tokens"
        request[name] = limit
    if context.agent.response_schema is not None:
        schema = {"name": "answer", "schema": context.agent.response_schema, "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    return request


def _with_cache_marks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Marks behind the system prompt, which tools stand in front of, and behind the newest message: the next step
    and the next turn begin with all of that."""
    marked = {index for index, message in enumerate(messages) if message["role"] == "system"} | {len(messages) - 1}
    return [_marked(message) if index in marked else message for index, message in enumerate(messages)]


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    if not message["content"]:
        return message
    return {**message, "content": [{"type": "text", "text": message["content"], **_CACHED}]}
