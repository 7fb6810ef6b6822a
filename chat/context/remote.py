"""Requests to a model's server that are not streamed: embeddings and summaries."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson

from chat.agents.base import ModelError
from chat.agents.endpoints import Endpoint, http

MAX_BYTES = 64 * 1_048_576
_REFUSALS = (400, 413, 422)
R = TypeVar("R")


class RefusedError(ModelError):
    """The server works, but does not take this request: most often because a text is too long for its model."""


async def post_json(endpoint: Endpoint, path: str, body: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """The answer's JSON object; raises RefusedError, ModelError, aiohttp.ClientError, TimeoutError."""
    async with (
        asyncio.timeout(seconds),
        http().post(f"{endpoint.base_url}{path}", json=body, headers=endpoint.headers()) as response,
    ):
        raw = await response.content.read(MAX_BYTES)
        if response.status != 200:
            error = RefusedError if response.status in _REFUSALS else ModelError
            raise error(f"{path} answered {response.status}: {raw[:200].decode(errors='replace')}")
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ModelError(f"{path} answered something else than JSON.") from None
    if not isinstance(answer, dict):
        raise ModelError(f"{path} answered something else than a JSON object.")
    return answer


def run_alone(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run it in a thread that has no event loop, such as a background task's."""
    return asyncio.run(_closing(coroutine))


async def _closing(coroutine: Coroutine[Any, Any, R]) -> R:
    try:
        return await coroutine
    finally:
        await http().close()
