"""The runtime for every OpenAI-compatible chat-completions server, on aiohttp and orjson.

The hot path: one dict per chunk, no model class, no copy of the text. Until its first token an answer may be asked for
again, of the same model and then of the fallback models; afterwards it is whole or it has failed.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
from django.conf import settings

from chat.agents.base import ModelError, RunContext
from chat.agents.completion_request import completion_request
from chat.agents.completion_stream import CompletionReader, stream_data
from chat.agents.endpoints import Endpoint, find_model, http
from chat.agents.events import AgentEvent, Status
from chat.agents.loop import run_tool_loop
from chat.agents.retrying import RETRIED_STATUSES, UnavailableError, pause_before_retry, read_retry_after
from chat.latency import Technique, is_used

logger = logging.getLogger(__name__)


class ChatCompletionsAgent:
    """A model of AGENT_MODEL's server (or the agent type's own), with tools."""

    def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        return run_tool_loop(self, context)

    async def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]:
        """One answer of the model or a fallback; raises ModelError. Leaving it early closes the request upstream."""
        names = [context.agent.model or settings.AGENT_MODEL, *context.agent.fallback_models]
        if not names[0]:
            raise ModelError("No model is configured: set AGENT_MODEL.")
        max_output = await context.reserve()
        for name, fallback in zip(names, [*names[1:], None], strict=True):
            try:
                async for event in self._ask_patiently(name, context, messages, max_output):
                    yield event
                return
            except UnavailableError as error:
                if fallback is None:
                    raise
                yield Status({"status": "fallback", "model": fallback, "reason": error.message})

    async def _ask_patiently(
        self, name: str, context: RunContext, messages: list[dict[str, Any]], max_output: int
    ) -> AsyncIterator[AgentEvent]:
        """Ask again while that may help; raises UnavailableError if nothing came, else ModelError."""
        model, endpoint = find_model(name)
        body = orjson.dumps(completion_request(model, endpoint, messages, context, max_output))
        for attempt in range(context.agent.model_retries + 1):
            try:
                async for event in _ask(model, endpoint, body, context):
                    yield event
                return
            except UnavailableError as error:
                pause = pause_before_retry(attempt, error, random.random)
                if pause is None or attempt == context.agent.model_retries:
                    raise
                told = {"status": "retrying", "model": name, "attempt": attempt + 1, "reason": error.message}
                yield Status({**told, "wait_seconds": round(pause, 1)})
            await asyncio.sleep(pause)


async def _ask(model: str, endpoint: Endpoint, body: bytes, context: RunContext) -> AsyncIterator[AgentEvent]:
    reader = CompletionReader(model, tells_calls=bool(context.agent.eager_tools) and is_used(Technique.SPECULATION))
    has_begun = False
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", **endpoint.headers()}
    try:
        async with http().post(f"{endpoint.base_url}/chat/completions", data=body, headers=headers) as response:
            if response.status != 200 or response.content_type != "text/event-stream":
                raise await _refusal(response)
            async for data in stream_data(response.content):
                for event in reader.take(data):
                    has_begun = True
                    yield event
            yield reader.finish()
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.warning("The endpoint %s failed: %s", endpoint.name, error or type(error).__name__)
        kind = ModelError if has_begun else UnavailableError
        raise kind("The connection to the model's server failed.") from error
    except ModelError as error:
        if has_begun or isinstance(error, UnavailableError):
            raise
        raise UnavailableError(error.message) from error


async def _refusal(response: aiohttp.ClientResponse) -> UnavailableError:
    body = await response.content.read(2_000)
    logger.warning("The model's server answered %s: %r", response.status, body)
    if response.status == 200:
        return UnavailableError("The model's server did not answer with a stream.", is_final=True)
    return UnavailableError(
        f"The model's server answered with status {response.status}.",
        is_final=response.status not in RETRIED_STATUSES,
        retry_after=read_retry_after(response.headers.get("Retry-After", "")),
    )
