"""The rate of a session's tool calls, as one run of it sees it."""

import asyncio
import math
import time
import uuid
from collections.abc import Sequence

from chat.agents.events import ToolCall
from chat.agents.tools.base import ToolError
from chat.stream.redis import client
from monitoring.rates import take_tool_calls, tool_call_limit
from sessions_app.threads import in_database_thread

_tool_call_limit = in_database_thread(tool_call_limit)


class SessionToolRate:
    """Counted by the id of the call: one that was counted may be started again."""

    def __init__(self, session_id: uuid.UUID, run_id: uuid.UUID) -> None:
        self._session_id = session_id
        self._run_id = run_id

    async def take(self, calls: Sequence[ToolCall]) -> set[str]:
        waits, _ = await self._take(calls)
        return {call.id for call, wait in zip(calls, waits, strict=True) if wait}

    async def wait(self, call: ToolCall, *, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            (wait,), limit = await self._take([call])
            left = until - time.monotonic()
            if not wait:
                return
            if left <= 0 or wait == math.inf:
                raise ToolError(f"Not run: this session made more than {limit} tool calls a minute. Use fewer.")
            await asyncio.sleep(min(wait, left))

    async def _take(self, calls: Sequence[ToolCall]) -> tuple[list[float], int | None]:
        """Seconds to wait for each call, and the limit."""
        limit = await _tool_call_limit(self._session_id) if calls else None
        if limit is None:
            return [0.0] * len(calls), None
        ids = [f"{self._run_id}:{call.id}" for call in calls]
        return await take_tool_calls(client(), self._session_id, ids, limit=limit), limit
