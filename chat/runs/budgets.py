"""A run's model calls and the budgets: each is reserved before it begins."""

from collections.abc import Sequence

from django.conf import settings

from chat.agents.events import Status
from chat.context.budget import Budget
from chat.context.calibration import worst_input
from chat.runs.persistence import Persistence, unbroken
from chat.runs.recorder import Recorder
from monitoring.ledger import ModelCall, Reserved
from sessions_app.agent_config import AgentConfig
from sessions_app.model_names import split_model_name
from sessions_app.services.claiming import Claim


class CallBudget:
    """Of one attempt at one run."""

    def __init__(self, claim: Claim, database: Persistence, recorder: Recorder, budget: Budget) -> None:
        self._claim = claim
        self._database = database
        self._recorder = recorder
        self._budget = budget
        self._models = models_of(claim.agent)

    async def reserve(self) -> int:
        """Reserve the next model call, unless that was done; returns how many tokens its answer may have, 0 if no
        budget applies.

        Raises BudgetExceededError, StaleEpochError.
        """
        reserved = self._recorder.reserved
        if reserved is None:
            reserved = await unbroken(self._reserve())
        return 0 if reserved.id is None else reserved.output_tokens

    async def _reserve(self) -> Reserved:
        reserved = await self._database.reserve(self._call(self._recorder.prompt_tokens))
        self._recorder.begin_call(reserved)
        for warning in reserved.warnings:
            self._recorder.add(Status({"status": "budget_warning", **warning}))
        return reserved

    async def give_up(self) -> None:
        """The call that was reserved will not be made, or gave nothing."""
        reserved, self._recorder.reserved = self._recorder.reserved, None
        if reserved is not None and reserved.id is not None:
            await self._database.release(reserved.id)

    def _call(self, prompt_tokens: int) -> ModelCall:
        wanted = wanted_output(self._claim.agent, self._budget.limit - prompt_tokens)
        return ModelCall(
            self._claim.session_id,
            self._models,
            input_tokens=worst_input(prompt_tokens, self._budget.ratio) if self._models else prompt_tokens,
            output_tokens=wanted,
            min_output_tokens=min(settings.MIN_OUTPUT_TOKENS, wanted),
            run_id=self._claim.run_id,
            epoch=self._claim.epoch,
        )


def wanted_output(agent: AgentConfig, room: int) -> int:
    """The tokens of an answer that the agent type allows, or as many as usual that the context has room for."""
    return agent.max_output_tokens or max(settings.MIN_OUTPUT_TOKENS, min(settings.MAX_OUTPUT_TOKENS, room))


def models_of(agent: AgentConfig) -> Sequence[str]:
    """The names, as usage has them, of the models of which one answers; none for an agent without one."""
    names = [agent.model or (settings.AGENT_MODEL if agent.runtime == "chat" else ""), *agent.fallback_models]
    return [split_model_name(name)[0] for name in names if name]
