"""Tools of one's own. EXTRA_AGENT_TOOLS=roll_dice=docs.examples.tools.roll_dice (with a comma, the next one)."""

import secrets
from typing import Annotated

from pydantic import Field

from chat.agents.tools.base import ToolContext, ToolError
from chat.agents.tools.decorator import tool


@tool(idempotent=True)
def roll_dice(sides: Annotated[int, Field(ge=2, le=1_000, description="Of one die.")] = 6, dice: int = 1) -> list[int]:
    """Roll dice; returns the number that each shows."""
    if dice > 100:
        raise ToolError("At most 100 dice at once.")  # the model reads this
    return [1 + secrets.randbelow(sides) for _ in range(dice)]


@tool(needs_approval=True, timeout_seconds=10.0)
async def send_invitation(context: ToolContext, guest: str, evening: str) -> str:
    """Invite a guest to play on an evening."""
    # Whatever sends it should be handed context.idempotency_key: it is the same if this call is repeated.
    return f"{guest} is invited for {evening}."
