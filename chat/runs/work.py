"""What a claimed run begins with: the messages that the model will see, and what an earlier worker left undone."""

import uuid
from collections.abc import Sequence
from typing import Any

from django.conf import settings

from chat.agents.base import Approval, RunContext
from chat.agents.events import ToolCall, ToolResult
from chat.agents.tools.base import Ledger, Tool
from chat.agents.tools.rate import SessionToolRate
from chat.context.budget import Budget, budget_of
from chat.context.calibration import ratio_of
from chat.context.prepared import PreparedContext
from chat.context.preparing import Question, prepare
from chat.runs.prepare import preparations
from monitoring.ledger import charge_lost
from sessions_app import facts
from sessions_app.cursor import Cursor
from sessions_app.models import Decision, Role, UnknownOutcome
from sessions_app.models.tool_call import APPROVAL_DECISIONS
from sessions_app.prompt import Newest, PromptMessage, Wanted, newest_messages, newest_of_short
from sessions_app.services.claiming import Claim
from sessions_app.services.effects import OpenCall, take_over_calls

OUTCOME_UNKNOWN = (
    "The outcome is unknown: the worker was lost while this tool was at work. It may or may not have taken effect; "
    "it was not called again. Find out before you repeat it."
)


class Work:
    """`open_calls` are the turn's tool calls without a result, by id."""

    def __init__(self, claim: Claim, newest: Newest | None = None) -> None:
        """`newest`: what `read_newest` has found, else it is read now."""
        self.claim = claim
        self._ratio = ratio_of(claim.agent.model or settings.AGENT_MODEL)
        self._newest = newest or _read_messages(claim, _room_of(claim))
        turn = [message for message in self._newest.messages if message.turn == claim.turn]
        self.message = turn[0]
        self.places = _places_of_open_calls(turn)
        self.next_position = max([turn[-1].position, *self.places.values()]) + 1
        self.open_calls: dict[str, OpenCall] = {}
        if claim.is_resumed:
            charge_lost(run_id=claim.run_id)  # what the worker before had begun
        if self.places:
            self.open_calls = {call.call_id: call for call in take_over_calls(claim=claim)}
        self.newest_fact: Cursor | None = facts.newest_of(claim.run_id) if claim.is_resumed else None

    async def prepare(self, tools: dict[str, Tool]) -> PreparedContext:
        """What the model is sent; raises ContextTooSmallError."""
        claim = self.claim
        budget = self.budget(tools)
        return await prepare(Question(claim.session_id, claim.turn, claim.agent, self._newest), budget)

    def budget(self, tools: dict[str, Tool]) -> Budget:
        tool_tokens = sum(tool.token_count for tool in tools.values())
        return budget_of(self.claim.agent, tool_tokens=tool_tokens, ratio=self._ratio)

    def calls_to_settle(self) -> list[ToolCall]:
        """Calls of which a person has to say what became of them, before the run can go on."""
        if self.claim.agent.unknown_outcome != UnknownOutcome.ASK:
            return []
        return [_as_call(call) for call in self.open_calls.values() if call.is_unknown and not call.decision]

    def known_results(self) -> list[ToolResult]:
        """The results that are there without running a tool: what people have decided, or that nobody knows."""
        if self.claim.agent_state is not None:
            return []  # an agent that asked by itself takes the answers by itself too
        return [self._known_result(call) for call in self.open_calls.values() if _is_settled(call)]

    def _known_result(self, call: OpenCall) -> ToolResult:
        if call.decision == Decision.HAPPENED:
            return ToolResult(call.call_id, call.tool, call.decided_result)
        if call.decision == Decision.DENIED:
            return ToolResult(call.call_id, call.tool, call.decided_result, is_error=True)
        return ToolResult(call.call_id, call.tool, OUTCOME_UNKNOWN, is_error=True)

    def context(
        self,
        prepared: PreparedContext,
        ledger: Ledger,
        tools: dict[str, Tool],
        take_steering: Any,
        reserve: Any,
        results: list[PromptMessage],
    ) -> RunContext:
        """`results` are those that were known at the beginning."""
        answered = {message.tool_call_id for message in results}
        pending = [call for call in self.open_calls.values() if call.call_id not in answered]
        return RunContext(
            run_id=self.claim.run_id,
            session_id=self.claim.session_id,
            agent=self.claim.agent,
            message=self.message.content,
            messages=[*prepared.messages, *results],
            max_prompt_tokens=prepared.budget.limit - prepared.budget.reserve,
            prompt_tokens=prepared.tokens,
            tools=tools,
            state=self.claim.state,
            pending=tuple(_as_call(call) for call in pending),
            approvals={
                call.call_id: Approval(call.decision != Decision.DENIED, call.arguments, str(call.decided_result or ""))
                for call in self.open_calls.values()
                if call.decision in (*APPROVAL_DECISIONS, Decision.RERUN)
            },
            agent_state=self.claim.agent_state,
            ledger=ledger,
            tool_rate=SessionToolRate(self.claim.session_id, self.claim.run_id),
            take_steering=take_steering,
            reserve=reserve,
        )


def read_newest(claims: Sequence[Claim]) -> dict[uuid.UUID, Newest]:
    """The conversations up to these turns, by run, in one go; without those that are long or may have been read
    ahead."""
    unknown = [claim for claim in claims if not preparations.has(claim.session_id)]
    wanted = [Wanted(claim.session_id, claim.turn, _room_of(claim)) for claim in unknown]
    found = zip(unknown, newest_of_short(wanted), strict=True)
    return {claim.run_id: newest for claim, newest in found if newest is not None}


def _room_of(claim: Claim) -> int:
    return budget_of(claim.agent, ratio=ratio_of(claim.agent.model or settings.AGENT_MODEL)).room


def _read_messages(claim: Claim, max_tokens: int) -> Newest:
    """The conversation up to this turn; what was read while the user typed is not read again."""
    prepared = preparations.take(claim.session_id, epoch=claim.epoch, turn=claim.turn)
    if prepared is None:
        return newest_messages(claim.session_id, turn=claim.turn, max_tokens=max_tokens)
    own = newest_messages(claim.session_id, turn=claim.turn, max_tokens=max_tokens, first_turn=claim.turn).messages
    prepared.count_draft(own[0].content)
    if {message.id for message in own} & {message.id for message in prepared.newest.messages}:  # tried again
        return newest_messages(claim.session_id, turn=claim.turn, max_tokens=max_tokens)
    return Newest([*prepared.newest.messages, *own], prepared.newest.is_all)


def _as_call(call: OpenCall) -> ToolCall:
    return ToolCall(call.call_id, call.tool, call.arguments)


def _is_settled(call: OpenCall) -> bool:
    return call.is_unknown or call.decision == Decision.DENIED


def _places_of_open_calls(turn: list[PromptMessage]) -> dict[str, int]:
    """The positions that are kept for results which are not there yet: an answer's calls take those behind it."""
    answered = {message.tool_call_id for message in turn if message.role == Role.TOOL}
    return {
        call["id"]: message.position + number
        for message in turn
        for number, call in enumerate(message.tool_calls, 1)
        if call["id"] not in answered
    }
