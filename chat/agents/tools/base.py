"""A tool: a function that an agent may call, with what the model is told of it."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from chat.agents.events import MALFORMED, ToolCall
from sessions_app.token_counting import message_tokens


@dataclass(frozen=True)
class ToolContext:
    """Where a tool is called from."""

    session_id: uuid.UUID
    run_id: uuid.UUID
    call_id: str = ""
    idempotency_key: str = ""  # the same whenever this call is repeated: hand it on to what the tool calls


class Ledger(Protocol):
    """Where the starts of tools are on record, so that no crash repeats what took effect."""

    async def start(self, calls: Sequence[ToolCall]) -> None:
        """Record that these calls start now; if this raises, none of them may."""

    def key_of(self, call_id: str) -> str:
        """The call's idempotency key."""


class NoLedger:
    """For agents that run outside a worker, as in a test of a tool."""

    async def start(self, calls: Sequence[ToolCall]) -> None:
        return None

    def key_of(self, call_id: str) -> str:
        return call_id


class ToolRate(Protocol):
    """How many tool calls a minute a session may make."""

    async def take(self, calls: Sequence[ToolCall]) -> set[str]:
        """Count the calls that may start now; the ids of the others."""

    async def wait(self, call: ToolCall, *, seconds: float) -> None:
        """Count the call when there is room for it; raises ToolError if there is none for so long."""


class NoToolRate:
    """For agents that run outside a worker."""

    async def take(self, calls: Sequence[ToolCall]) -> set[str]:
        return set()

    async def wait(self, call: ToolCall, *, seconds: float) -> None:
        return None


class ToolError(Exception):
    """What a tool raises to tell the model, in a sentence, what was wrong with the call."""


@dataclass(frozen=True)
class Tool:
    """`function(context, **arguments)` returns a JSON value; a plain function runs in a thread.

    `parameters` is the JSON schema of the arguments. `is_idempotent` says that a call may be repeated without harm,
    which is done when its worker was lost; of other tools the outcome is then unknown and a person decides.
    `needs_approval`: a person has to allow each call. `cost` is noted for each call, in the operator's currency.
    `convert`, if there is one, checks the arguments in the schema's place and gives those for the function; it raises
    ToolError.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any]
    timeout_seconds: float = 30.0
    is_idempotent: bool = False
    needs_approval: bool = False
    cost: float = 0.0
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def read(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments for the function; raises ToolError if they do not fit the schema."""
        if MALFORMED in args and MALFORMED not in self.parameters.get("properties", {}):
            raise ToolError(f"The arguments are not a JSON object: {str(args[MALFORMED])[:200]}")
        if self.convert is not None:
            return self.convert(args)
        error = best_match(self._validator.iter_errors(args))
        if error is not None:
            place = ".".join(str(part) for part in error.absolute_path)
            raise ToolError(f"The arguments do not fit: {place + ': ' if place else ''}{error.message[:500]}")
        return args

    @cached_property
    def token_count(self) -> int:
        """Of its description in a prompt."""
        return message_tokens(self.name, self.description, orjson.dumps(self.parameters).decode())

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(self.parameters)
