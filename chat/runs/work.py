"""What a claimed run begins with: the messages that the model will see, and what an earlier worker left undone."""

from typing import Any

from chat.agents.base import Approval, RunContext
from chat.agents.events import ToolCall, ToolResult
from chat.agents.tools.base import Ledger, Tool
from chat.context.window import prompt_budget, without_orphans
from chat.runs.prepare import preparations
from sessions_app import facts
from sessions_app.cursor import Cursor
from sessions_app.models import Decision, Role, UnknownOutcome
from sessions_app.models.tool_call import APPROVAL_DECISIONS
from sessions_app.prompt import PromptMessage, prompt_messages
from sessions_app.services.claiming import Claim
from sessions_app.services.effects import OpenCall, take_over_calls
from sessions_app.token_counting import message_tokens

OUTCOME_UNKNOWN = (
    "The outcome is unknown: the worker was lost while this tool was at work. It may or may not have taken effect; "
    "it was not called again. Find out before you repeat it."
)


class Work:
    """`open_calls` are the turn's tool calls without a result, by id."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        system_tokens = message_tokens(claim.agent.system_prompt)
        budget = prompt_budget(system_tokens, claim.agent.max_context_tokens)
        found = _read_messages(claim, budget)
        turn = [message for message in found if message.turn == claim.turn]
        self.message = turn[0]
        self.messages = without_orphans(found)
        self.prompt_tokens = system_tokens + sum(message.token_count for message in self.messages)
        self.places = _places_of_open_calls(turn)
        self.next_position = max([turn[-1].position, *self.places.values()]) + 1
        self.open_calls: dict[str, OpenCall] = {}
        if self.places:
            self.open_calls = {call.call_id: call for call in take_over_calls(claim=claim)}
        self.newest_fact: Cursor | None = facts.newest_of(claim.run_id) if claim.is_resumed else None

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
        self, ledger: Ledger, tools: dict[str, Tool], take_steering: Any, results: list[PromptMessage]
    ) -> RunContext:
        """`results` are those that were known at the beginning."""
        answered = {message.tool_call_id for message in results}
        pending = [call for call in self.open_calls.values() if call.call_id not in answered]
        return RunContext(
            run_id=self.claim.run_id,
            session_id=self.claim.session_id,
            agent=self.claim.agent,
            message=self.message.content,
            messages=[*self.messages, *results],
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
            take_steering=take_steering,
        )


def _read_messages(claim: Claim, max_tokens: int) -> list[PromptMessage]:
    """The conversation up to this turn; what was read while the user typed is not read again."""
    prepared = preparations.take(claim.session_id, epoch=claim.epoch, turn=claim.turn)
    if prepared is None:
        return prompt_messages(claim.session_id, turn=claim.turn, max_tokens=max_tokens)
    own = prompt_messages(claim.session_id, turn=claim.turn, max_tokens=max_tokens, first_turn=claim.turn)
    if {message.id for message in own} & {message.id for message in prepared}:  # a turn that is tried again
        return prompt_messages(claim.session_id, turn=claim.turn, max_tokens=max_tokens)
    used = sum(message.token_count for message in own)
    kept: list[PromptMessage] = []
    for message in reversed(prepared):
        used += message.token_count
        if used > max_tokens:
            break
        kept.append(message)
    return [*reversed(kept), *own]


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
