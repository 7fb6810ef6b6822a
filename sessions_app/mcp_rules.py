"""What an MCP server's row must be so that workers can reach it: checked before it is saved."""

import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings

VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]*)")


def mistakes_in(server: Any) -> dict[str, list[str]]:
    """The mistakes by field, in sentences for the operator; empty if there are none."""
    found = {
        "url": list(_url(server)),
        "headers": list(_headers(server)),
        "command": list(_command(server)),
        **{
            name: list(_names(getattr(server, name)))
            for name in ("allowed_tools", "idempotent_tools", "approval_tools")
        },
    }
    return {field: mistakes for field, mistakes in found.items() if mistakes}


def _url(server: Any) -> Iterator[str]:
    if server.transport == "http" and not server.url.startswith(("http://", "https://")):
        yield "An HTTP server needs an address that begins with http:// or https://."


def _headers(server: Any) -> Iterator[str]:
    headers = server.headers
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        yield "This is a JSON object of texts."
        return
    for value in headers.values():
        for name in VARIABLE.findall(value):
            if name not in settings.MCP_ENVIRONMENT:
                yield f"${name} is not in the setting MCP_ENVIRONMENT."


def _command(server: Any) -> Iterator[str]:
    if server.transport != "stdio":
        return
    yield from _names(server.command)
    if not server.command:
        yield "A stdio server needs a command."
    elif isinstance(server.command, list) and server.command[0] not in settings.MCP_COMMANDS:
        allowed = ", ".join(settings.MCP_COMMANDS) or "none"
        yield f"{server.command[0]!r} is not in the setting MCP_COMMANDS, which has: {allowed}."


def _names(value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        yield "This is a JSON list of texts."
