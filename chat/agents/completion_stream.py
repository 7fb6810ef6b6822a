"""What a chat-completions server sends: its stream of chunks, read as the many servers of this API write it."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import orjson

from chat.agents.base import ModelError
from chat.agents.events import AgentEvent, ModelAnswer, Text, Thought, ToolCall, read_arguments
from sessions_app.services.recording import Usage

logger = logging.getLogger(__name__)

_DONE = b"[DONE]"
_MAX_EVENT_BYTES = 4 * 1_048_576  # one event of the stream that is longer is not one of a chat model


async def stream_data(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """What stands behind `data:` in a server-sent stream, until [DONE] or its end."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_EVENT_BYTES:
            raise ModelError("The model's server sent an event without an end.")
        for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()):
                yield data
                if data == _DONE:
                    return
    if rest.startswith(b"data:"):  # the last line, of a server that does not end it
        yield rest[5:].strip()


class CompletionReader:
    """Collects what comes in pieces: tool calls, the usage, the sign of the end.

    With `tells_calls` each call is told as soon as it is complete, before the answer is.
    """

    def __init__(self, model: str, *, tells_calls: bool = False) -> None:
        self._model = model
        self._tells_calls = tells_calls
        self._calls: list[dict[str, Any]] = []
        self._by_index: dict[Any, int] = {}
        self._usage: dict[str, Any] | None = None
        self._is_complete = False  # said by a finish_reason or by [DONE]
        self._finish_reason = ""

    def take(self, data: bytes) -> list[AgentEvent]:
        """The events of one chunk; raises ModelError."""
        if data == _DONE:
            self._is_complete = True
            return []
        chunk = _decode(data)
        self._usage = chunk.get("usage") or self._usage
        events: list[AgentEvent] = []
        for choice in chunk.get("choices") or ():
            if error := choice.get("error"):
                raise _reported(error)
            delta = choice.get("delta") or {}
            self._take_delta(delta, events)
            if reason := choice.get("finish_reason"):
                self._is_complete = True
                self._finish_reason = self._finish_reason or reason
        return events

    def _take_delta(self, delta: dict[str, Any], events: list[AgentEvent]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            events.append(Thought(thought))
        content = delta.get("content")
        if isinstance(content, list):
            events += _of_parts(content)
        elif content:
            events.append(Text(content))
        if refusal := delta.get("refusal"):
            self._finish_reason = "refusal"
            events.append(Text(refusal))
        for part in delta.get("tool_calls") or ():
            is_new = self._add_call_part(part)
            if is_new and self._tells_calls and len(self._calls) > 1:
                events.append(self._call(len(self._calls) - 2))

    def _add_call_part(self, part: dict[str, Any]) -> bool:
        """Whether it began another call. Some servers leave the index out, or give all calls the same."""
        function = part.get("function") or {}
        index, id = part.get("index"), part.get("id") or ""
        place = self._by_index.get(index) if index is not None else (len(self._calls) - 1 if self._calls else None)
        if place is not None and id and self._calls[place]["id"] not in ("", id):
            place = None
        is_new = place is None
        if place is None:
            place = len(self._calls)
            self._calls.append({"id": "", "name": "", "arguments": ""})
            self._by_index[index] = place
        call = self._calls[place]
        call["id"] = id or call["id"]
        call["name"] = function.get("name") or call["name"]
        arguments = function.get("arguments") or ""
        call["arguments"] += arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        return is_new

    def _call(self, place: int) -> ToolCall:
        call = self._calls[place]
        return ToolCall(call["id"] or f"call_{place}", call["name"], read_arguments(call["arguments"]))

    def finish(self) -> ModelAnswer:
        """The end of the answer; raises ModelError if it broke off before."""
        if not self._is_complete:
            raise ModelError("The model's answer broke off.")
        calls = tuple(self._call(place) for place in range(len(self._calls)))
        return ModelAnswer(tool_calls=calls, usage=self._read_usage(), finish_reason=self._finish_reason)

    def _read_usage(self) -> Usage | None:
        if self._usage is None:
            return None
        prompt_details = self._usage.get("prompt_tokens_details") or {}
        completion_details = self._usage.get("completion_tokens_details") or {}
        return Usage(
            input_tokens=self._usage.get("prompt_tokens") or 0,
            output_tokens=self._usage.get("completion_tokens") or 0,
            cached_tokens=prompt_details.get("cached_tokens") or self._usage.get("cache_read_input_tokens") or 0,
            reasoning_tokens=completion_details.get("reasoning_tokens") or 0,
            model=self._model,
        )


def _decode(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ModelError("The model's server sent what is not JSON.") from None
    if not isinstance(chunk, dict):
        raise ModelError("The model's server sent what is no chunk of an answer.")
    if chunk.get("error") or chunk.get("object") == "error":
        raise _reported(chunk.get("error") or chunk)
    return chunk


def _reported(error: Any) -> ModelError:
    logger.warning("The model's server reported within its stream: %r", error)
    return ModelError("The model's server reported an error within its answer.")


def _of_parts(parts: list[Any]) -> Iterator[AgentEvent]:
    """Content in parts, as some reasoning models send it."""
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "text" and part.get("text"):
            yield Text(part["text"])
        elif part.get("type") == "thinking":
            thinking = part.get("thinking") or ""
            texts = [thinking] if isinstance(thinking, str) else [each.get("text") or "" for each in thinking]
            yield from (Thought(text) for text in texts if text)
