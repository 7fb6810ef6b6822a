"""The second half of a turn, in the worker: context, agent, checkpoints, end. Its failure policy is here only."""

import asyncio
import logging
from typing import Any

from django.conf import settings

from chat.agents.base import AgentConfig, RunContext
from chat.agents.registry import agent_for, tools_for
from chat.context.window import without_orphans
from chat.runs.recorder import Recorder
from chat.stream.writer import RunStream
from sessions_app import facts
from sessions_app.errors import AgentsiteError, StaleEpochError
from sessions_app.models import Message, RunStatus
from sessions_app.prompt import prompt_messages
from sessions_app.services import recording
from sessions_app.services.runs import Claim, message_tokens
from sessions_app.threads import in_database_thread

logger = logging.getLogger(__name__)

_record_step = in_database_thread(recording.record_step)
_finish_run = in_database_thread(recording.finish_run)


class Work:
    """What a claimed run needs to begin: the messages that the model will see, and what they count."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        system_tokens = message_tokens(claim.agent.system_prompt)
        budget = settings.MODEL_CONTEXT_TOKENS - settings.MODEL_RESERVE_TOKENS - system_tokens
        found = prompt_messages(claim.session_id, turn=claim.turn, max_tokens=budget)
        self.messages = without_orphans(found)
        self.prompt_tokens = system_tokens + sum(message.token_count for message in self.messages)
        self.next_position = found[-1].position + 1
        self.message = next(message for message in found if message.turn == claim.turn)

    def context(self) -> RunContext:
        """Raises AgentError if the settings lack what the agent type names."""
        agent = self.claim.agent
        return RunContext(
            run_id=self.claim.run_id,
            session_id=self.claim.session_id,
            agent=AgentConfig(agent.name, agent.model, agent.system_prompt, agent.max_steps),
            message=self.message.content,
            messages=self.messages,
            tools=tools_for(agent.tools),
            state=self.claim.state,
        )


class Execution:
    """One attempt at one run. `execute` ends with the run's terminal event, or silently when it is fenced."""

    def __init__(self, work: Work, stream: RunStream) -> None:
        self.claim = work.claim
        self.is_cancel_requested = False
        self.is_finishing = False
        self.aftermath: recording.Aftermath | None = None  # known at the end
        self._work = work
        self._stream = stream
        self._recorder = Recorder(
            work.claim, stream, next_position=work.next_position, prompt_tokens=work.prompt_tokens
        )

    async def execute(self) -> None:
        try:
            await self._work_through()
        except StaleEpochError:
            logger.info("Run %s: another worker has claimed it, this one stops", self.claim.run_id)
        except asyncio.CancelledError:
            if self._stream.is_fenced:
                logger.info("Run %s: a newer epoch writes its session, this one stops", self.claim.run_id)
            elif self.is_cancel_requested:
                await self._finish(RunStatus.CANCELLED)
            else:
                raise
        except AgentsiteError as error:
            await self._finish(RunStatus.FAILED, error.code, error.message)
        except Exception:
            logger.exception("Run %s failed", self.claim.run_id)
            await self._finish(RunStatus.FAILED, "internal_error", "The agent failed unexpectedly.")
        else:
            await self._finish(RunStatus.SUCCEEDED)

    async def _work_through(self) -> None:
        self._begin()
        context = self._work.context()
        agent = agent_for(self.claim.agent.runtime)
        async for event in agent.stream(context):
            if self._recorder.add(event):
                await _record_step(claim=self.claim, step=self._recorder.step)
                self._recorder.forget_step()

    def _begin(self) -> None:
        if self.claim.attempt == 1:
            self._recorder.tell("message", self._message_fact())
        else:
            data = {"run_id": str(self.claim.run_id), "reason": "new_attempt", "attempt": self.claim.attempt}
            self._recorder.tell("discard", data)

    def _message_fact(self) -> dict[str, Any]:
        message = self._work.message
        return facts.message(message.id, self.claim.run_id, message.content)

    async def _finish(self, status: RunStatus, code: str = "", message: str = "") -> None:
        """One transaction, then the terminal event: who has seen it finds the run finished."""
        self.is_finishing = True
        self._recorder.end(is_partial=status != RunStatus.SUCCEEDED)
        type, data = self._terminal_event(status, code, message)
        self._recorder.add_terminal(type, data)
        try:
            # Shielded: a cancel that comes now must not part the record from the event.
            self.aftermath = await asyncio.shield(
                _finish_run(
                    claim=self.claim,
                    status=status,
                    step=self._recorder.step,
                    error_code=code,
                    error_message=message,
                )
            )
        except StaleEpochError:
            logger.info("Run %s: another worker has claimed it, its end is not ours", self.claim.run_id)
        else:
            self._stream.emit(type, data)

    def _terminal_event(self, status: RunStatus, code: str, message: str) -> tuple[str, dict[str, Any]]:
        run_id, usage = self.claim.run_id, self._recorder.usage
        if status == RunStatus.SUCCEEDED:
            return "done", {"run_id": str(run_id), "usage": usage, "status": status.value}
        if status == RunStatus.CANCELLED:
            return "cancelled", facts.cancelled(run_id, usage)
        return "error", facts.failed(run_id, code, message, usage)

    def tell_of_cancelled(self, pairs: list[tuple[Any, Message]]) -> list[recording.NewEvent]:
        """Tell, as the session's writer, of runs that were cancelled while they waited."""
        told = [fact for run, message in pairs for fact in facts.cancelled_run(run, message)]
        events = []
        for type, data, run_id in told:
            seq = self._stream.emit(type, data)
            events.append(recording.NewEvent(seq, seq, type, data, run_id))
        return events
