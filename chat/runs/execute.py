"""The second half of a turn, in the worker: context, agent, checkpoints, end. Its failure policy is here only."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from django.utils import timezone

from chat.agents.base import RunTimeoutError
from chat.agents.events import AgentEvent, ApprovalRequired, ModelAnswer, Status, ToolCall, ToolResult
from chat.agents.registry import agent_for, find_tools
from chat.context.prepared import PreparedContext
from chat.runs.budgets import CallBudget
from chat.runs.persistence import Persistence, unbroken
from chat.runs.recorder import Recorder
from chat.runs.work import Work
from chat.stream.writer import RunStream
from monitoring.ledger import BudgetExceededError
from monitoring.pausing import as_question
from sessions_app import facts
from sessions_app.errors import AgentsiteError, CancelRequestedError, SessionTimeoutError, StaleEpochError
from sessions_app.failpoints import fail_point
from sessions_app.models import Decision, Message, Role, RunStatus
from sessions_app.models.tool_call import APPROVAL_DECISIONS, OUTCOME_DECISIONS
from sessions_app.prompt import PromptMessage
from sessions_app.services.recording import Aftermath, NewEvent
from sessions_app.services.working_time import seconds_left

logger = logging.getLogger(__name__)


class Leaving(Exception):
    """The worker is to stop, and the run stands at a step's boundary: another worker can go on from here."""


class Parked(Exception):
    """The run waits for a person, and needs no worker meanwhile."""


class Execution:
    """One attempt at one run. `execute` ends with the run's terminal event, or silently when it is fenced,
    handed over to another worker, or parked."""

    def __init__(self, work: Work, stream: RunStream) -> None:
        self.claim = work.claim
        self.is_cancel_requested = False
        self.is_leaving = False  # stop at the next step's boundary
        self.is_interrupted = False  # stop at once, for the same reason
        self.is_steered = False
        self.is_finishing = False
        self.is_given_back = False
        self.is_parked = False
        self.is_context_needed = False  # the conversation is about to outgrow its room
        self.aftermath: Aftermath | None = None  # known at the end
        self._is_owed = False  # an answer without tools: on record when more follows, else with the end
        self._work = work
        self._stream = stream
        self._database = Persistence(work.claim, stream)
        self._calls: CallBudget | None = None  # known when the context is prepared
        self._timer: asyncio.Timeout | None = None  # while the agent is at work
        self._telling = asyncio.Lock()  # the ids of events that are recorded before they are emitted
        self._recorder = Recorder(
            work.claim,
            stream,
            next_position=work.next_position,
            open_calls=work.places,
        )

    async def execute(self) -> None:
        try:
            await self._work_through()
        except StaleEpochError:
            logger.info("Run %s: another worker has claimed it, this one stops", self.claim.run_id)
        except Leaving:
            await self._give_back()
        except CancelRequestedError:
            await self._finish(RunStatus.CANCELLED)
        except Parked:
            self.is_parked = True
            logger.info("Run %s waits for a person", self.claim.run_id)
        except asyncio.CancelledError:
            await self._stopped()
        except AgentsiteError as error:
            await self._finish(RunStatus.FAILED, error.code, error.message)
        except Exception:
            logger.exception("Run %s failed", self.claim.run_id)
            await self._finish(RunStatus.FAILED, "internal_error", "The agent failed unexpectedly.")
        else:
            await self._finish(RunStatus.SUCCEEDED)

    async def _stopped(self) -> None:
        """Somebody ended the task: find out why."""
        if self._stream.is_fenced:
            logger.info("Run %s: a newer epoch writes its session, this one stops", self.claim.run_id)
        elif self.is_cancel_requested:
            await self._finish(RunStatus.CANCELLED)
        elif self.is_interrupted:
            await self._give_back()
        else:
            raise asyncio.CancelledError

    def renew_lease(self, until: float) -> None:
        self._stream.lease_until = until
        self._stream.wake()  # what was held back may be written now

    def lose_lease(self) -> None:
        """The run is another's by now, or has ended: nothing more of this attempt gets out."""
        if not self.is_finishing:
            self._stream.fence()

    # --- the steps ---------------------------------------------------------------------------------------------------

    async def _work_through(self) -> None:
        try:
            await self._take_steps()
        except BudgetExceededError as error:
            if error.is_pause:
                await self._pause(error)
            raise

    async def _take_steps(self) -> None:
        self._begin()
        results = await self._settle_what_was_open()
        config = self.claim.agent
        self._recorder.tools = tools = await find_tools(config, self._tell_status)
        prepared = await self._database.prepare(lambda: self._work.prepare(tools))
        await self._tell_of(prepared)
        self._calls = calls = CallBudget(self.claim, self._database, self._recorder, prepared.budget)
        context = self._work.context(prepared, self, tools, self.take_steering, calls.reserve, results)
        agent = agent_for(config.runtime)
        async with self._time_limit(), _closing(agent.stream(context)) as events:
            if not context.pending:  # else their results come before the first model call
                await calls.reserve()
            async for event in events:
                if self._is_owed:
                    await self._checkpoint()
                    await calls.reserve()  # it goes on
                if isinstance(event, ApprovalRequired):
                    await self._park(event.calls, "approval", APPROVAL_DECISIONS, event.state)
                elif self._recorder.add(event):
                    await self._checkpoint()
                    self._leave_if_asked(event)
                    if isinstance(event, ToolResult) and not self._recorder.has_open_calls:
                        await calls.reserve()
                elif isinstance(event, ModelAnswer):
                    self._is_owed = True

    async def _tell_of(self, prepared: PreparedContext) -> None:
        """Account for the prompt; the clients are told of summaries that stand in it for the first time."""
        self._recorder.prompt_tokens = prepared.tokens
        self.is_context_needed = prepared.is_context_needed
        if new := [summary for summary in prepared.chosen.summaries if not summary.is_told]:
            for summary in new:
                self._recorder.tell("summary", facts.summary(summary))
            await self._database.mark_told([summary.id for summary in new])

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        limit, left = self.claim.agent.max_run_seconds, seconds_left(self.claim.worked_ms)
        if left == 0:
            raise SessionTimeoutError()
        is_sessions = left is not None and (limit is None or left < limit)
        try:
            async with asyncio.timeout(left if is_sessions else limit) as timer:
                self._timer = timer
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            if is_sessions:
                raise SessionTimeoutError() from None
            raise RunTimeoutError(f"The run took longer than {limit} seconds.") from None
        finally:
            self._timer = None

    def _tell_status(self, data: dict[str, Any]) -> None:
        self._recorder.add(Status(data))

    def _begin(self) -> None:
        if self.claim.is_resumed:
            reason, since = "new_attempt", self._work.newest_fact
            self._recorder.tell("discard", facts.discard(self.claim.run_id, reason, self.claim.attempt, since))
        elif self.claim.is_told:
            self._recorder.tell("status", facts.running(self.claim.run_id))
        else:
            message = self._work.message
            self._recorder.tell("message", facts.message(message.id, self.claim.run_id, message.content))

    async def _checkpoint(self) -> None:
        fail_point("before_checkpoint")
        await unbroken(self._record_step())
        fail_point("after_checkpoint")

    async def _record_step(self) -> None:
        aftermath = await self._database.record_step(self._recorder.step)
        self._recorder.forget_step()
        self._is_owed = False
        self.is_steered = self.is_steered or aftermath.is_steered

    def _leave_if_asked(self, event: AgentEvent) -> None:
        """Between a model's answer and its tools nothing is under way, nor is when all of them have answered."""
        is_boundary = isinstance(event, ModelAnswer) or not self._recorder.has_open_calls
        if self.is_leaving and is_boundary:
            raise Leaving

    # --- the ledger of effects ---------------------------------------------------------------------------------------

    async def start(self, calls: Sequence[ToolCall]) -> None:
        """Record that these calls start now (chat.agents.tools.base.Ledger)."""
        await self._database.start_calls([call.id for call in calls])
        fail_point("after_tool_start")

    def key_of(self, call_id: str) -> str:
        known = self._work.open_calls.get(call_id)
        return known.idempotency_key if known else f"{self.claim.run_id}:{call_id}"

    async def _settle_what_was_open(self) -> list[PromptMessage]:
        """Park the run if a person is to be asked; record the results that are known without running a tool."""
        if to_settle := self._work.calls_to_settle():
            await self._park(to_settle, "outcome_unknown", OUTCOME_DECISIONS, self.claim.agent_state)
        known = self._work.known_results()
        for result in known:
            self._recorder.add(result)
        messages = [_as_prompt(message, self.claim.turn) for message in self._recorder.step.messages]
        if known:
            await self._checkpoint()
        return messages

    async def _park(
        self, calls: Sequence[ToolCall], reason: str, decisions: Sequence[Decision], agent_state: Any
    ) -> NoReturn:
        """Wait for a person to decide about calls, without a worker."""
        async with self._telling:
            self.is_finishing = True
        questions = self._recorder.ask(calls, reason=reason, decisions=decisions)
        awaiting = [call.id for call in calls] if reason == "approval" else []
        await self._wait_for_person(questions, self._database.park(self._recorder.step, awaiting, agent_state))

    async def _pause(self, error: BudgetExceededError) -> NoReturn:
        """Wait for somebody to raise a budget, or for its next period, without a worker."""
        async with self._telling:
            self.is_finishing = True
        questions = self._recorder.ask_for_budget(as_question(error))
        pause = self._database.pause(self._recorder.step, error, self.claim.agent_state)
        await self._wait_for_person(questions, pause)

    async def _wait_for_person(self, questions: list[NewEvent], write: Coroutine[Any, Any, None]) -> NoReturn:
        """Whoever has seen the question finds that it can be answered."""
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(None)  # the write must not be broken off: afterwards nothing is at work
        fail_point("before_park")
        try:
            await asyncio.shield(write)
        except CancelRequestedError:
            self._recorder.withdraw(questions)
            raise
        for question in questions:
            self._stream.emit(question.type, question.data)
        raise Parked

    # --- messages that come meanwhile --------------------------------------------------------------------------------

    async def take_steering(self) -> list[str]:
        """What the user has sent for this turn since it began; called between two steps."""
        if not self.is_steered:
            return []
        self.is_steered = False
        if self._recorder.step.events:
            await self._checkpoint()
        async with self._telling:
            return await unbroken(self._absorb_steering())

    async def _absorb_steering(self) -> list[str]:
        absorbed = await self._database.absorb_steering(self._recorder.next_position, self._stream.seq)
        self._recorder.next_position += len(absorbed.messages)
        for event in absorbed.events:
            self._stream.emit(event.type, event.data)
        return [message.content for message in absorbed.messages]

    async def tell_of_cancelled(self, pairs: list[tuple[Any, Message]]) -> None:
        """Tell, as the session's writer, of runs that were cancelled while they waited."""
        async with self._telling:
            if self.is_finishing:
                return
            told = [fact for run, message in pairs for fact in facts.cancelled_run(run, message)]
            events = []
            for type, data, run_id in told:
                seq = self._stream.emit(type, data)
                events.append(NewEvent(seq, seq, type, data, run_id))
            await self._database.record_told(events)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _give_back(self) -> None:
        self.is_finishing = True
        if self._recorder.reserved is not None:  # broken off in the middle of an answer
            await self._database.record_step(self._recorder.usage_of_open_call())
        self.is_given_back = await self._database.give_back()
        logger.info("Run %s is handed over", self.claim.run_id)

    async def _finish(self, status: RunStatus, code: str = "", message: str = "") -> None:
        """One transaction, then the terminal event: who has seen it finds the run finished."""
        async with self._telling:
            self.is_finishing = True
        self._recorder.end(is_partial=status != RunStatus.SUCCEEDED)
        if status == RunStatus.CANCELLED:
            self._recorder.charge_open_call()
        elif self._calls is not None:
            await self._calls.give_up()
        type, data = await self._terminal_event(status, code, message)
        self._recorder.add_terminal(type, data)
        fail_point("before_finish")
        try:
            # Shielded: a cancel that comes now must not part the record from the event.
            self.aftermath = await asyncio.shield(
                self._database.finish_run(
                    status=status,
                    step=self._recorder.step,
                    error_code=code,
                    error_message=message,
                    has_open_calls=self._recorder.has_open_calls,
                )
            )
        except StaleEpochError:
            logger.info("Run %s: another worker has claimed it, its end is not ours", self.claim.run_id)
        else:
            fail_point("after_finish")
            self._stream.emit(type, data)

    async def _terminal_event(self, status: RunStatus, code: str, message: str) -> tuple[str, dict[str, Any]]:
        run_id, usage = self.claim.run_id, self._recorder.usage
        if status == RunStatus.SUCCEEDED:
            return "done", facts.done(run_id, usage, finish_reason=self._recorder.finish_reason)
        if status == RunStatus.CANCELLED:
            is_rolled_back = await self._database.is_rolled_back()
            return "cancelled", facts.cancelled(run_id, usage, is_rolled_back=is_rolled_back)
        return "error", facts.failed(run_id, code, message, usage)


@asynccontextmanager
async def _closing(events: AsyncIterator[AgentEvent]) -> AsyncIterator[AsyncIterator[AgentEvent]]:
    """However the run ends, the agent's generator is closed, and with it what it holds open."""
    try:
        yield events
    finally:
        if (close := getattr(events, "aclose", None)) is not None:
            await close()


def _as_prompt(message: Any, turn: int) -> PromptMessage:
    return PromptMessage(
        id=0,
        turn=turn,
        position=message.position,
        role=Role.TOOL.value,
        content=message.content,
        tool_calls=(),
        tool_call_id=message.tool_call_id,
        token_count=message.token_count,
        created_at=timezone.now(),
    )
