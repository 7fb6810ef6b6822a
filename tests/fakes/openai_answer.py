"""The fake model's answer to a request, and its encodings: stream chunks and the whole completion."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from tests.fakes.openai_script import Message, Script, ToolRequest, text_of

CREATED = 1_700_000_000  # fixed, so that answers are the same in every run
ARGUMENTS_PIECE = 7  # characters of tool arguments in a delta; splits words and escapes alike
WORD = re.compile(r"\s*\S+\s*")

DONE = b"data: [DONE]\n\n"
CHUNK_END = b',"finish_reason":null}]}\n\n'


@dataclass(frozen=True)
class Answer:
    reasoning: list[str]
    words: list[str]
    tools: list[ToolRequest]
    finish_reason: str
    usage: dict[str, Any]

    def deltas(self, request_id: str) -> Iterator[bytes]:
        """The JSON of each delta in the order in which a model sends them."""
        for word in self.reasoning:
            yield word_delta("reasoning_content", word)
        for word in self.words:
            yield word_delta("content", word)
        for index, tool in enumerate(self.tools):
            yield from tool_deltas(index, tool_call_id(request_id, index), tool)


def answer_to(messages: list[Message], script: Script, text: str, max_tokens: int | None = None) -> Answer:
    """Call the script's tools while rounds are left; then tell their results, the tokens, or an echo."""
    reasoning = [f"think{i} " for i in range(script.reasoning)]
    tools = script.tools if rounds_done(messages) < script.rounds else []
    words = [] if tools else answer_words(messages, script, text)
    finish_reason = "length" if script.length else "tool_calls" if tools else "stop"
    if max_tokens is not None and len(reasoning) + len(words) > max_tokens:
        reasoning = reasoning[:max_tokens]
        words, finish_reason = words[: max_tokens - len(reasoning)], "length"
    return Answer(reasoning, words, tools, finish_reason, count_usage(messages, reasoning, words, tools))


def answer_words(messages: list[Message], script: Script, text: str) -> list[str]:
    results = trailing_tool_results(messages)
    words = WORD.findall(f"Tool results: {'; '.join(results)}. ") if results else []
    if script.tokens is not None:
        words += [f"tok{i} " for i in range(script.tokens)]
    elif not results:
        words = WORD.findall(f"You said: {text}")
    return words


def rounds_done(messages: list[Message]) -> int:
    """How often tools were called since the user last spoke."""
    rounds = 0
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        rounds += bool(message.get("tool_calls"))
    return rounds


def trailing_tool_results(messages: list[Message]) -> list[str]:
    results: list[str] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        results.insert(0, text_of(message))
    return results


def count_usage(
    messages: list[Message], reasoning: list[str], words: list[str], tools: list[ToolRequest]
) -> dict[str, Any]:
    """Tokens as this model counts them: words of the prompt, deltas of the answer, one for each tool call."""
    prompt = sum(len(text_of(message).split()) for message in messages)
    completion = len(reasoning) + len(words) + len(tools)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": len(reasoning)},
    }


def tool_call_id(request_id: str, index: int) -> str:
    return f"call_{request_id.removeprefix('chatcmpl-')}_{index}"


@lru_cache(maxsize=10_000)
def word_delta(field: str, word: str) -> bytes:
    return orjson.dumps({field: word})


def tool_deltas(index: int, call_id: str, tool: ToolRequest) -> Iterator[bytes]:
    function: dict[str, str] = {"name": tool.name, "arguments": ""}
    first = {"index": index, "id": call_id, "type": "function", "function": function}
    yield orjson.dumps({"tool_calls": [first]})
    for start in range(0, len(tool.arguments), ARGUMENTS_PIECE):
        piece = tool.arguments[start : start + ARGUMENTS_PIECE]
        yield orjson.dumps({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


def chunk_start(request_id: str, model: str) -> bytes:
    """What stands before each delta of a stream; the same bytes for all of its chunks."""
    head = {"id": request_id, "object": "chat.completion.chunk", "created": CREATED, "model": model}
    return b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":0,"delta":'


def finish_chunk(start: bytes, finish_reason: str) -> bytes:
    return start + b'{},"finish_reason":"' + finish_reason.encode() + b'"}]}\n\n'


def usage_chunk(request_id: str, model: str, usage: dict[str, Any]) -> bytes:
    chunk = {
        "id": request_id,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "choices": [],
        "usage": usage,
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def completion(request_id: str, model: str, answer: Answer, *, with_usage: bool) -> dict[str, Any]:
    """The whole answer as one object, for a request that does not stream."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.words) or None}
    if answer.reasoning:
        message["reasoning_content"] = "".join(answer.reasoning)
    if answer.tools:
        message["tool_calls"] = [
            {
                "id": tool_call_id(request_id, index),
                "type": "function",
                "function": {"name": tool.name, "arguments": tool.arguments},
            }
            for index, tool in enumerate(answer.tools)
        ]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    body = {
        "id": request_id,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [choice],
    }
    return body | {"usage": answer.usage} if with_usage else body


def error_object(message: str, error_type: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": error_type, "param": None, "code": code}}
