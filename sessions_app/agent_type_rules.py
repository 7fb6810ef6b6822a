"""What an agent type must be so that its runs can work: checked before it is saved."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from sessions_app.context_budget import context_limit, reserve_of
from sessions_app.model_names import split_model_name
from sessions_app.token_counting import message_tokens

_CAPABILITY = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
MAX_CAPABILITIES = 5
MIN_CONVERSATION_TOKENS = 200


def mistakes_in(agent_type: Any) -> dict[str, list[str]]:
    """The mistakes by field, in sentences for the operator; empty if there are none."""
    found: dict[str, list[str]] = {}
    for field, check in _CHECKS:
        if mistakes := list(check(agent_type)):
            found.setdefault(field, []).extend(mistakes)
    return found


def _runtime(agent_type: Any) -> Iterator[str]:
    if agent_type.runtime not in settings.AGENT_RUNTIMES:
        yield _not_in(agent_type.runtime, "AGENT_RUNTIMES")


def _tools(agent_type: Any) -> Iterator[str]:
    yield from _names(agent_type.tools)
    for name in _texts(agent_type.tools):
        if name not in settings.AGENT_TOOLS:
            yield _not_in(name, "AGENT_TOOLS")


def _eager_tools(agent_type: Any) -> Iterator[str]:
    yield from _names(agent_type.eager_tools)
    for name in _texts(agent_type.eager_tools):
        if name not in _texts(agent_type.tools):
            yield f"{name!r} is not one of the tools of this agent type."


def _mcp_servers(agent_type: Any) -> Iterator[str]:
    yield from _names(agent_type.mcp_servers)
    wanted = _texts(agent_type.mcp_servers)
    if wanted:
        known = set(apps.get_model("sessions_app", "McpServer").objects.values_list("name", flat=True))
        for name in wanted:
            if name not in known:
                yield f"There is no MCP server {name!r}."


def _model(agent_type: Any) -> Iterator[str]:
    yield from _model_mistakes(agent_type.model)


def _fallback_models(agent_type: Any) -> Iterator[str]:
    yield from _names(agent_type.fallback_models)
    for name in _texts(agent_type.fallback_models):
        yield from _model_mistakes(name)


def _model_mistakes(name: str) -> Iterator[str]:
    _, endpoint = split_model_name(name)
    if endpoint not in settings.MODEL_ENDPOINTS:
        yield _not_in(endpoint, "MODEL_ENDPOINTS")


def _response_schema(agent_type: Any) -> Iterator[str]:
    schema = agent_type.response_schema
    if schema is None:
        return
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield 'A response schema is a JSON object with "type": "object".'
        return
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield f"This is not a JSON schema: {error.message}"


def _context_shares(agent_type: Any) -> Iterator[str]:
    shares = agent_type.context_shares
    if not isinstance(shares, dict):
        yield "This is a JSON object of strategies and numbers."
        return
    choices = agent_type._meta.get_field("context_strategy").flatchoices
    names = [name for name, _ in choices if name != "combined"]
    for name, share in shares.items():
        if name not in names:
            yield f"{name!r} is no strategy with a share: {', '.join(names)}."
        elif isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            yield f"The share of {name!r} is a number above 0, 1 at most."
    if sum(share for share in shares.values() if isinstance(share, int | float)) > 1.0001:
        yield "The shares are more than 1 together."


def _max_context_tokens(agent_type: Any) -> Iterator[str]:
    limit = context_limit(agent_type.max_context_tokens)
    left = limit - reserve_of(limit) - message_tokens(agent_type.system_prompt or "")
    if left < MIN_CONVERSATION_TOKENS:
        yield (
            f"The system prompt and the reserve for the answer leave {max(left, 0)} of {limit} tokens for the "
            f"conversation; it needs {MIN_CONVERSATION_TOKENS}."
        )


def _summary_model(agent_type: Any) -> Iterator[str]:
    if agent_type.summary_model != "extractive":
        yield from _model_mistakes(agent_type.summary_model)


def _capabilities(agent_type: Any) -> Iterator[str]:
    yield from _names(agent_type.required_capabilities)
    words = _texts(agent_type.required_capabilities)
    if len(words) > MAX_CAPABILITIES:
        yield f"At most {MAX_CAPABILITIES} capabilities can be required."
    for word in words:
        if not _CAPABILITY.fullmatch(word):
            yield f"{word!r} is no capability: lower-case letters, digits, `.`, `_` and `-`."


def _names(value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        yield "This is a JSON list of names."
    elif len(set(value)) != len(value):
        yield "A name stands here twice."


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _not_in(name: str, setting: str) -> str:
    return f"{name!r} is not in the setting {setting}, which has: {', '.join(getattr(settings, setting))}."


_CHECKS: tuple[tuple[str, Callable[[Any], Iterator[str]]], ...] = (
    ("runtime", _runtime),
    ("model", _model),
    ("fallback_models", _fallback_models),
    ("context_shares", _context_shares),
    ("max_context_tokens", _max_context_tokens),
    ("summary_model", _summary_model),
    ("tools", _tools),
    ("eager_tools", _eager_tools),
    ("mcp_servers", _mcp_servers),
    ("response_schema", _response_schema),
    ("required_capabilities", _capabilities),
)
