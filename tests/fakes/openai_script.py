"""What the fake model is told: a directive in the last user message: `[[tokens=100 delay_ms=20]]`."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

NUMBERS = frozenset(
    {"tokens", "delay_ms", "reasoning", "rounds", "status", "cut", "error_after", "times", "prefill_us"}
)
FLAGS = frozenset({"no_usage", "odd_usage", "endless", "html", "hang", "length"})


@dataclass(frozen=True)
class ToolRequest:
    name: str
    arguments: str = "{}"  # as a model sends them: text, which may or may not be JSON


@dataclass(frozen=True)
class Script:
    """One directive; what its words do stands in `openai_server`. `cut` and `error_after` count deltas."""

    tokens: int | None = None
    delay_ms: int = 0
    reasoning: int = 0
    tools: list[ToolRequest] = field(default_factory=list)
    rounds: int = 1
    status: int | None = None
    cut: int | None = None
    error_after: int | None = None
    times: int | None = None
    prefill_us: int = 0  # microseconds for each word of the prompt that is not in the cache
    no_usage: bool = False
    odd_usage: bool = False
    endless: bool = False
    html: bool = False
    hang: bool = False
    length: bool = False

    @property
    def has_fault(self) -> bool:
        faults = (self.status, self.cut, self.error_after)
        return self.html or self.hang or any(fault is not None for fault in faults)


def text_of(message: Message) -> str:
    """The text of a message whose content is a string, a list of parts, or null."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def last_user_text(messages: list[Message]) -> str:
    return next((text_of(m) for m in reversed(messages) if m.get("role") == "user"), "")


def split_directive(text: str) -> tuple[Script, str]:
    """The script in `text`, and the text without it. Raise ValueError for one that is not understood."""
    start = text.find("[[")
    if start < 0:
        return Script(), text
    values, end = _parse(text, start + 2)
    return Script(**values), (text[:start] + text[end:]).strip()


def _parse(text: str, position: int) -> tuple[dict[str, Any], int]:
    """Read `name`, `name=value` and `args=<JSON>` up to `]]`; also give the position behind it."""
    values: dict[str, Any] = {"tools": []}
    while True:
        position = _skip_spaces(text, position)
        if text.startswith("]]", position):
            return values, position + 2
        name_match = re.compile(r"(\w+)(=?)").match(text, position)
        if name_match is None:
            raise ValueError(f"Unexpected directive at {text[position:]!r}, want name=value or ]]")
        name, equals = name_match.groups()
        if name == "args" and equals:
            position = _parse_arguments(text, name_match.end(), values["tools"])
            continue
        value_match = re.compile(r"[^\s\]]*").match(text, name_match.end())
        assert value_match is not None  # it can match nothing, but always matches
        _set(values, name, value_match.group() if equals else None)
        position = value_match.end()


def _skip_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _parse_arguments(text: str, position: int, tools: list[ToolRequest]) -> int:
    """Give the last tool its arguments. A JSON string is sent as it reads, so that it can be broken."""
    if not tools:
        raise ValueError("args= must follow tool=")
    arguments, end = json.JSONDecoder().raw_decode(text, position)
    as_sent = arguments if isinstance(arguments, str) else text[position:end]
    tools[-1] = ToolRequest(tools[-1].name, as_sent)
    return end


def _set(values: dict[str, Any], name: str, value: str | None) -> None:
    if name in FLAGS and value is None:
        values[name] = True
    elif name in NUMBERS and value is not None:
        values[name] = int(value)
    elif name == "tool" and value:
        values["tools"].append(ToolRequest(value))
    else:
        raise ValueError(f"Unexpected directive {name}={value}")
