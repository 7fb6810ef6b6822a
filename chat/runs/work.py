"""What a claimed run begins with: the messages that the model will see, and what an earlier worker left undone."""

from typing import Any

from django.conf import settings

from chat.agents.base import AgentConfig, RunContext
from chat.agents.events import ToolCall, ToolResult
from chat.agents.registry import tools_for
from chat.agents.tools.base import Ledger
from chat.context.window import without_orphans
from sessions_app import facts
from sessions_app.cursor import Cursor
from sessions_app.models import Decision, Role, UnknownOutcome
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
        budget = settings.MODEL_CONTEXT_TOKENS - settings.MODEL_RESERVE_TOKENS - system_tokens
        found = prompt_messages(claim.session_id, turn=claim.turn, max_tokens=budget)
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

    def calls_to_settle(self) -> list[OpenCall]:
        """Calls of which a person has to say what became of them, before the run can go on."""
        if self.claim.agent.unknown_outcome != UnknownOutcome.ASK:
            return []
        return [call for call in self.open_calls.values() if call.is_unknown and not call.decision]

    def known_results(self) -> list[ToolResult]:
        """The results that are there without running a tool: what people have decided, or that nobody knows."""
        return [
            ToolResult(call.call_id, call.tool, call.decided_result)
            if call.decision == Decision.HAPPENED
            else ToolResult(call.call_id, call.tool, OUTCOME_UNKNOWN, is_error=True)
            for call in self.open_calls.values()
            if call.is_unknown
        ]

    def context(self, ledger: Ledger, take_steering: Any, results: list[PromptMessage]) -> RunContext:
        """Raises AgentError if the settings lack what the agent type names."""
        agent = self.claim.agent
        pending = [call for call in self.open_calls.values() if not call.is_unknown]
        return RunContext(
            run_id=self.claim.run_id,
            session_id=self.claim.session_id,
            agent=AgentConfig(agent.name, agent.model, agent.system_prompt, agent.max_steps),
            message=self.message.content,
            messages=[*self.messages, *results],
            tools=tools_for(agent.tools),
            state=self.claim.state,
            pending=tuple(ToolCall(call.call_id, call.tool, call.arguments) for call in pending),
            ledger=ledger,
            take_steering=take_steering,
        )


def _places_of_open_calls(turn: list[PromptMessage]) -> dict[str, int]:
    """The positions that are kept for results which are not there yet: an answer's calls take those behind it."""
    answered = {message.tool_call_id for message in turn if message.role == Role.TOOL}
    return {
        call["id"]: message.position + number
        for message in turn
        for number, call in enumerate(message.tool_calls, 1)
        if call["id"] not in answered
    }
