"""The runtime for every OpenAI-compatible chat-completions server, on aiohttp and orjson.

The hot path: one dict per chunk, no model class, no copy of the text.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import orjson
from django.conf import settings

from chat.agents.base import ModelError, RunContext
from chat.agents.events import AgentEvent, ModelAnswer, Text, Thought, ToolCall
from chat.agents.loop import run_tool_loop
from sessions_app.services.recording import Usage

logger = logging.getLogger(__name__)

_DONE = b"[DONE]"
_MAX_EVENT_BYTES = 4 * 1_048_576  # one event of the stream that is longer is not one of a chat model

_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


def _http() -> aiohttp.ClientSession:
    """The event loop's one client: its connections to the model's server are kept alive."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.closed:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=settings.MODEL_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=75.0)
        session = _sessions[loop] = aiohttp.ClientSession(connector=connector, timeout=timeout)
    return session


class ChatCompletionsAgent:
    """A model of AGENT_MODEL's server (or the agent type's own), with tools."""

    def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        return run_tool_loop(self, context)

    async def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]:
        """One answer of the model; raises ModelError. Leaving it early closes the request upstream."""
        model = context.agent.model or settings.AGENT_MODEL
        if not model:
            raise ModelError("No model is configured: set AGENT_MODEL.")
        answer = _Answer(model)
        try:
            async with _http().post(
                f"{settings.OPENAI_BASE_URL or 'https://api.openai.com/v1'}/chat/completions",
                data=orjson.dumps(_request(model, messages, context)),
                headers=_headers(),
            ) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    raise await _refusal(response)
                async for data in _stream_data(response.content):
                    for event in answer.take(data):
                        yield event
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("The model's server failed: %s", error or type(error).__name__)
            raise ModelError("The connection to the model's server failed.") from error
        yield answer.finish()


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    if settings.OPENAI_API_KEY:
        headers["Authorization"] = f"Bearer {settings.OPENAI_API_KEY}"
    return headers


def _request(model: str, messages: list[dict[str, Any]], context: RunContext) -> dict[str, Any]:
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
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                },
            }
            for tool in context.tools.values()
        ]
    return request


async def _refusal(response: aiohttp.ClientResponse) -> ModelError:
    body = await response.content.read(2_000)
    logger.warning("The model's server answered %s: %r", response.status, body)
    if response.status == 200:
        return ModelError("The model's server did not answer with a stream.")
    return ModelError(f"The model's server answered with status {response.status}.")


async def _stream_data(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """What stands behind `data:` in a server-sent stream, until [DONE] or its end."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_EVENT_BYTES:
            raise ModelError("The model's server sent an event without an end.")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                yield data
                if data == _DONE:
                    return


class _Answer:
    """Collects what comes in pieces: tool calls by their index, the usage, the sign of the end."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: dict[str, Any] | None = None
        self._is_complete = False  # said by a finish_reason or by [DONE]

    def take(self, data: bytes) -> list[AgentEvent]:
        if data == _DONE:
            self._is_complete = True
            return []
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise ModelError("The model's server sent what is not JSON.") from None
        if "error" in chunk:
            logger.warning("The model's server reported within its stream: %r", chunk["error"])
            raise ModelError("The model's server reported an error within its answer.")
        self._usage = chunk.get("usage") or self._usage
        events: list[AgentEvent] = []
        for choice in chunk.get("choices") or ():
            self._is_complete = self._is_complete or bool(choice.get("finish_reason"))
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if thought:
                events.append(Thought(thought))
            text = delta.get("content") or delta.get("refusal")
            if text:
                events.append(Text(text))
            for part in delta.get("tool_calls") or ():
                self._add_call_part(part)
        return events

    def _add_call_part(self, part: dict[str, Any]) -> None:
        call = self._calls.setdefault(part.get("index", 0), {"id": "", "name": "", "arguments": ""})
        function = part.get("function") or {}
        call["id"] = part.get("id") or call["id"]
        call["name"] = function.get("name") or call["name"]
        call["arguments"] += function.get("arguments") or ""

    def finish(self) -> ModelAnswer:
        if not self._is_complete:
            raise ModelError("The model's answer broke off.")
        calls = tuple(
            ToolCall(call["id"] or f"call_{index}", call["name"], _arguments(call["arguments"]))
            for index, call in sorted(self._calls.items())
        )
        return ModelAnswer(tool_calls=calls, usage=self._read_usage())

    def _read_usage(self) -> Usage | None:
        if self._usage is None:
            return None
        prompt_details = self._usage.get("prompt_tokens_details") or {}
        completion_details = self._usage.get("completion_tokens_details") or {}
        return Usage(
            input_tokens=self._usage.get("prompt_tokens") or 0,
            output_tokens=self._usage.get("completion_tokens") or 0,
            cached_tokens=prompt_details.get("cached_tokens") or 0,
            reasoning_tokens=completion_details.get("reasoning_tokens") or 0,
            model=self._model,
        )


def _arguments(text: str) -> dict[str, Any]:
    """The arguments as the model wrote them; what is no JSON object goes to the tool's check as such."""
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {"malformed_arguments": text}
    return arguments if isinstance(arguments, dict) else {"malformed_arguments": text}
