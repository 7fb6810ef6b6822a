"""Turns what an agent yields into events for the clients, at once, and into facts for Postgres, step by step."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from chat.agents.events import AgentEvent, ModelAnswer, Status, Text, Thought, ToolCall, ToolResult
from chat.agents.loop import result_text
from chat.agents.tools.base import Tool
from chat.agents.tools.stored import shorten
from chat.stream.writer import RunStream
from monitoring.ledger import Reserved
from sessions_app.models import Decision, Role, ToolCallStatus
from sessions_app.services.claiming import Claim
from sessions_app.services.recording import NewCall, NewEvent, NewMessage, Step, Usage
from sessions_app.token_counting import count_tokens, message_tokens


@dataclass
class _Block:
    """Neighbouring deltas of one type: one fact, once they are complete."""

    type: str
    first_seq: int
    seq: int
    parts: list[str]

    def text(self) -> str:
        return "".join(self.parts)


class Recorder:
    """Of one attempt at one run. `add` is called for every event and awaits nothing: it is the hot path."""

    def __init__(
        self,
        claim: Claim,
        stream: RunStream,
        *,
        next_position: int,
        open_calls: dict[str, int],
    ) -> None:
        self._claim = claim
        self._stream = stream
        self.next_position = next_position
        self.prompt_tokens = 0  # of the next model call, as counted here
        self.reserved: Reserved | None = None  # for the call that is under way or comes next
        self._call_began = 0.0  # monotonic
        self._queue_ms: int | None = claim.queue_ms  # until the first call's usage tells it
        self.tools: dict[str, Tool] = {}  # the agent's, as soon as they are known
        self._step = Step()
        self._blocks: list[_Block] = []
        self._open_calls = open_calls  # tool_call_id -> position kept for its result
        self.finish_reason = ""  # of the newest answer
        self.usage = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}

    def tell(self, type: str, data: dict[str, Any], *, run_id: uuid.UUID | None = None) -> None:
        """An event that is a fact by itself."""
        seq = self._stream.emit(type, data)
        self._step.events.append(NewEvent(seq, seq, type, data, run_id))

    def add(self, event: AgentEvent) -> bool:
        """Take an agent's event. True: a step is complete and must be on record before the agent goes on."""
        if isinstance(event, Text):
            self._add_delta("response", event.content)
        elif isinstance(event, Thought):
            self._add_delta("thought", event.content)
        elif isinstance(event, ModelAnswer):
            self._end_answer(event.tool_calls, event.usage)
            self.finish_reason = event.finish_reason
            return bool(event.tool_calls)
        elif isinstance(event, ToolCall):
            self._end_answer((event,), None, status=ToolCallStatus.STARTED)  # by the agent itself, when it goes on
            return True
        elif isinstance(event, ToolResult):
            self._add_result(event)
            return True
        elif isinstance(event, Status):
            if self._blocks:  # facts are on record in the order of their ids
                self._end_text()
            self.tell("status", {"run_id": str(self._claim.run_id), **event.data})
        else:
            raise TypeError(f"An agent cannot yield a {type(event).__name__}.")
        return False

    def ask(self, calls: Sequence[ToolCall], *, reason: str, decisions: Sequence[Decision]) -> list[NewEvent]:
        """The events that ask a person about calls: on record with this step, and to be emitted after it.

        Calls that the agent has not told of yet go on record too.
        """
        if new := tuple(call for call in calls if call.id not in self._open_calls):
            self._end_answer(new, None)
        told = [self._question(call, reason, decisions) for call in calls]
        events = [NewEvent(seq, seq, "approval_required", data) for seq, data in enumerate(told, self._stream.seq + 1)]
        self._step.events += events
        return events

    def withdraw(self, questions: list[NewEvent]) -> None:
        """They were not asked after all."""
        self._step.events = [event for event in self._step.events if event not in questions]

    def _question(self, call: ToolCall, reason: str, decisions: Sequence[Decision]) -> dict[str, Any]:
        return {
            "run_id": str(self._claim.run_id),
            "reason": reason,
            "tool_call_id": call.id,
            "tool": call.tool,
            "args": call.args,
            "decisions": [decision.value for decision in decisions],
        }

    def ask_for_budget(self, data: dict[str, Any]) -> list[NewEvent]:
        """As `ask`, about a budget that has to be raised."""
        seq = self._stream.seq + 1
        event = NewEvent(seq, seq, "approval_required", {"run_id": str(self._claim.run_id), "reason": "budget", **data})
        self._step.events.append(event)
        return [event]

    def begin_call(self, reserved: Reserved) -> None:
        """A model call begins, for which this was reserved."""
        self.reserved, self._call_began = reserved, time.monotonic()

    @property
    def step(self) -> Step:
        """What has come together since the last checkpoint."""
        return self._step

    @property
    def has_open_calls(self) -> bool:
        return bool(self._open_calls)

    @property
    def has_open_text(self) -> bool:
        return bool(self._blocks)

    def forget_step(self) -> None:
        """The checkpoint is on record."""
        if self._step.events and not self._blocks:
            self._stream.settle(self._step.events[-1].seq)
        self._step = Step()

    def end(self, *, is_partial: bool) -> None:
        """What is still open becomes a message, marked as partial if the run broke off."""
        if self._blocks:
            self._end_answer((), None, is_partial=is_partial)

    def usage_of_open_call(self) -> Step:
        """A step that says nothing but what the call has cost that is broken off; the rest of this step is dropped."""
        self._step = Step()
        self.charge_open_call()
        return self._step

    def charge_open_call(self) -> None:
        """A call that was broken off has cost its prompt, and what came of its answer."""
        if self.reserved is not None:
            came = sum(count_tokens(block.text()) for block in self._blocks)
            self._add_usage(Usage(self.prompt_tokens, came, is_estimated=True))

    def add_terminal(self, type: str, data: dict[str, Any]) -> None:
        """Add the run's last event, under the id that it will have in the stream after the commit."""
        seq = self._stream.seq + 1
        self._step.events.append(NewEvent(seq, seq, type, data))

    def _add_delta(self, type: str, content: str) -> None:
        if not content:
            return
        if not content.isascii():
            content = content.encode(errors="replace").decode()  # an agent may cut a character in two
        if "\x00" in content:
            content = content.replace("\x00", "\ufffd")  # Postgres has no NUL
        seq = self._stream.delta(type, content)
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.type == type:
            last.parts.append(content)
            last.seq = seq
        else:
            self._blocks.append(_Block(type, seq, seq, [content]))

    def _end_answer(
        self,
        calls: tuple[ToolCall, ...],
        usage: Usage | None,
        *,
        is_partial: bool = False,
        status: ToolCallStatus = ToolCallStatus.PLANNED,
    ) -> None:
        thought, content = self._close_blocks()
        calls = tuple(ToolCall(call.id, call.tool, _without_nul(call.args)) for call in calls)
        for call in calls:
            self.tell("tool_call", {"tool": call.tool, "args": call.args, "tool_call_id": call.id})
        if thought or content or calls:
            self._add_message(thought, content, calls, is_partial)
        self._plan(calls, status)
        for call in calls:
            self._open_calls[call.id] = self.next_position
            self.next_position += 1
        self._add_usage(usage or self._estimate(thought, content, calls), tool_calls=len(calls))

    def _plan(self, calls: tuple[ToolCall, ...], status: ToolCallStatus, stored: str = "") -> None:
        for call in calls:
            key = f"{self._claim.run_id}:{call.id}"
            tool = self.tools.get(call.tool)
            is_idempotent, cost = (tool.is_idempotent, tool.cost) if tool else (False, 0.0)
            new = NewCall(call.id, call.tool, call.args, key, is_idempotent, cost, stored, status.value)
            self._step.calls.append(new)

    def _close_blocks(self) -> tuple[str, str]:
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            self._step.events.append(NewEvent(block.seq, block.first_seq, block.type, {"content": block.text()}))
        thought = "".join(block.text() for block in blocks if block.type == "thought")
        content = "".join(block.text() for block in blocks if block.type == "response")
        return thought, content

    def _add_message(self, thought: str, content: str, calls: tuple[ToolCall, ...], is_partial: bool) -> None:
        tool_calls = [{"id": call.id, "name": call.tool, "arguments": call.args} for call in calls]
        self._step.messages.append(
            NewMessage(
                self.next_position,
                Role.ASSISTANT.value,
                thought=thought,
                content=content,
                tool_calls=tool_calls,
                is_partial=is_partial,
                token_count=message_tokens(content, *(_call_text(call) for call in calls)),
            )
        )
        self.next_position += 1

    def _add_result(self, result: ToolResult) -> None:
        if self._blocks:  # facts are on record in the order of their ids
            self._end_text()
        result = shorten(result)
        data = {
            "tool": result.tool,
            "result": _without_nul(result.result),
            "tool_call_id": result.id,
            "is_error": result.is_error,
            "duration_ms": result.duration_ms,
        }
        self.tell("tool_result", data)
        position = self._open_calls.pop(result.id, None)
        if position is None:  # an agent that never yielded the call
            position = self.next_position
            self.next_position += 1
            self._plan((ToolCall(result.id, result.tool),), ToolCallStatus.FINISHED, _without_nul(result.stored))
        content = result_text(result).replace("\x00", "\ufffd")
        message = NewMessage(
            position,
            Role.TOOL.value,
            content=content,
            tool_call_id=result.id,
            tool_name=result.tool,
            is_error=result.is_error,
            duration_ms=result.duration_ms,
            token_count=message_tokens(content),
            stored_result=_without_nul(result.stored),
        )
        self._step.messages.append(message)
        self.prompt_tokens += message.token_count

    def _end_text(self) -> None:
        thought, content = self._close_blocks()
        self._add_message(thought, content, (), is_partial=False)

    def _estimate(self, thought: str, content: str, calls: tuple[ToolCall, ...]) -> Usage:
        texts = (thought, content, *(_call_text(call) for call in calls))
        output = sum(count_tokens(text) for text in texts if text)
        return Usage(input_tokens=self.prompt_tokens, output_tokens=output, is_estimated=True)

    def _add_usage(self, usage: Usage, *, tool_calls: int = 0) -> None:
        reserved, self.reserved = self.reserved, None
        self._step.usage.append(
            replace(
                usage,
                counted_tokens=self.prompt_tokens,
                tool_calls=tool_calls,
                cost=reserved.prices.cost_of(usage) if reserved else 0,
                wall_ms=round((time.monotonic() - self._call_began) * 1_000) if reserved else None,
                queue_ms=self._queue_ms,
                reservation_id=reserved.id if reserved else None,
            )
        )
        self._queue_ms = None
        self.prompt_tokens += usage.output_tokens
        for name in self.usage:
            self.usage[name] += getattr(usage, name)


def _without_nul(value: Any) -> Any:
    """The JSON value with U+FFFD for NUL, which Postgres has not."""
    encoded = orjson.dumps(value)
    return orjson.loads(encoded.replace(b"\\u0000", b"\\ufffd")) if b"\\u0000" in encoded else value


def _call_text(call: ToolCall) -> str:
    return f"{call.tool} {orjson.dumps(call.args).decode()}"
