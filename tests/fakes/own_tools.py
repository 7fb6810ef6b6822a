"""Tools as somebody else would bring them."""

import asyncio
from typing import Annotated

from pydantic import BaseModel, Field

from chat.agents.tools.base import ToolContext
from chat.agents.tools.decorator import tool


class Attachment(BaseModel):
    name: str
    size: int = 0


@tool(needs_approval=True, cost=0.25)
async def send_mail(
    context: ToolContext,
    to: Annotated[str, Field(description="The address.", pattern="@")],
    subject: str = "",
    attachments: list[Attachment] | None = None,
) -> str:
    """Send a mail."""
    return f"sent {subject!r} to {to} with {len(attachments or [])} attachments"


@tool(idempotent=True)
def produce(characters: int) -> str:
    """Produce a text of that length."""
    return "".join(str(number % 10) for number in range(characters))


@tool(idempotent=True, timeout_seconds=0.5)
async def slow() -> None:
    """Never returns."""
    await asyncio.Event().wait()


@tool(idempotent=True)
async def pause(milliseconds: int) -> int:
    """Takes that long."""
    await asyncio.sleep(milliseconds / 1_000)
    return milliseconds
