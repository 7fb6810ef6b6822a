"""Work ahead of a turn: while the user types, its worker-to-be reads the conversation and opens the connection.

Nobody knows which worker will take the run, so each of them prepares; what is not used is counted as wasted.
"""

import time
import uuid
from dataclasses import dataclass

from django.conf import settings

from chat.agents.base import ModelError
from chat.agents.endpoints import Endpoint, find_model, warm_up
from chat.context.budget import budget_of
from chat.context.calibration import ratio_of
from chat.context.combined import shares_of
from chat.context.embedding import embedder
from chat.latency import Technique, is_used
from monitoring.speculation import USED, WASTED, speculation
from sessions_app.agent_config import AgentConfig
from sessions_app.models import AgentSession, AgentType, ContextStrategy
from sessions_app.models.agent_type import CONFIG_FIELDS
from sessions_app.prompt import Newest, newest_messages

KEPT_SECONDS = 60.0
MAX_KEPT = 200


@dataclass(frozen=True)
class Prepared:
    """A session's conversation as it was before a turn."""

    epoch: int
    next_turn: int
    newest: Newest
    made_at: float
    draft: str = ""  # what was embedded of the message to come

    def count_draft(self, message: str) -> None:
        if self.draft:
            speculation.count("embedding", USED if message == self.draft else WASTED)

    def count_as_wasted(self) -> None:
        speculation.count("context", WASTED)
        self.count_draft("")


class Preparations:
    """Of one worker: the newest per session, for a minute. For several threads: each step is one dict operation."""

    def __init__(self) -> None:
        self._kept: dict[uuid.UUID, Prepared] = {}

    def prepare(self, session_id: uuid.UUID, draft: str = "") -> tuple[Endpoint | None, str]:
        """Read the session's conversation; returns the endpoint that its agent will call, if there is one, and the
        draft if its vector will be needed."""
        session = AgentSession.objects.select_related("agent_type").filter(pk=session_id, deleted_at=None).first()
        if session is None:
            return None, ""
        self._forget_old()
        agent = config_of(session.agent_type)
        room = budget_of(agent, ratio=ratio_of(agent.model or settings.AGENT_MODEL)).room
        newest = newest_messages(session_id, turn=session.next_turn, max_tokens=room)
        is_searched = not newest.is_all and ContextStrategy.RETRIEVAL in shares_of(agent)
        draft = draft if is_searched and embedder() is not None else ""
        if (before := self._kept.pop(session_id, None)) is not None:
            before.count_as_wasted()
        self._kept[session_id] = Prepared(session.epoch, session.next_turn, newest, time.monotonic(), draft)
        return endpoint_of(session.agent_type), draft

    def has(self, session_id: uuid.UUID) -> bool:
        """Something that `take` may give."""
        return session_id in self._kept

    def take(self, session_id: uuid.UUID, *, epoch: int, turn: int) -> Prepared | None:
        """What was read before this turn, if nothing has happened in the session since they were read."""
        prepared = self._kept.pop(session_id, None)
        if prepared is None:
            return None
        is_fresh = time.monotonic() - prepared.made_at < KEPT_SECONDS
        if not is_fresh or (prepared.epoch + 1, prepared.next_turn) != (epoch, turn):
            prepared.count_as_wasted()
            return None
        speculation.count("context", USED)
        return prepared

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEPT_SECONDS
        old = [key for key, prepared in list(self._kept.items()) if prepared.made_at < limit]
        for key in old or list(self._kept)[: len(self._kept) - MAX_KEPT + 1]:
            if (forgotten := self._kept.pop(key, None)) is not None:
                forgotten.count_as_wasted()


preparations = Preparations()


def config_of(agent_type: AgentType) -> AgentConfig:
    """The agent type as a run that begins now would have it."""
    return AgentConfig.from_json({name: getattr(agent_type, name) for name in CONFIG_FIELDS})


def endpoint_of(agent_type: AgentType) -> Endpoint | None:
    """Where the agent type's model answers; None if it calls none, or if nobody has configured it."""
    name = agent_type.model or settings.AGENT_MODEL
    if agent_type.runtime != "chat" or not name:
        return None
    try:
        return find_model(name)[1]
    except ModelError:
        return None


def endpoints_in_use() -> list[Endpoint]:
    """Those of all enabled agent types, each once."""
    found = [endpoint_of(agent_type) for agent_type in AgentType.objects.filter(is_enabled=True)]
    return list({endpoint.name: endpoint for endpoint in found if endpoint}.values())


async def warm_up_endpoints(endpoints: list[Endpoint]) -> None:
    if is_used(Technique.WARM_UP):
        for endpoint in endpoints:
            await warm_up(endpoint)
