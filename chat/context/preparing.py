"""What the model is sent for a message: the whole conversation while it fits, else what the strategies choose of it."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.utils import timezone

from chat.context import importance, retrieval
from chat.context.budget import Budget
from chat.context.combined import Material, Selection, compose, shares_of
from chat.context.cutting import fit_turn
from chat.context.embedding import embed_query, embedder
from chat.context.excerpts import Candidate
from chat.context.prepared import PreparedContext
from chat.context.summaries import SummaryText
from chat.context.units import Unit, tokens_of, units_of
from sessions_app import memory
from sessions_app.agent_config import AgentConfig
from sessions_app.memory import Hit
from sessions_app.models import ContextStrategy as Strategy
from sessions_app.models import Role, Summary, SummaryLevel
from sessions_app.prompt import Newest, PromptMessage
from sessions_app.threads import in_database_thread

IMPORTANT = 200  # entries that are weighed
TOKENS_PER_ENTRY = 20  # of a short one: bounds how many are read for the room that there is
MAX_ENTRIES = 600
NOT_BY_MEANING = "What fits the question was found by its words only: the embedder did not answer."


@dataclass(frozen=True)
class Question:
    """A message that is to be answered, and the agent that is to do it."""

    session_id: uuid.UUID
    turn: int
    agent: AgentConfig
    newest: Newest  # with the turn's own messages at its end

    def turn_units(self) -> list[Unit]:
        return units_of(message for message in self.newest.messages if message.turn == self.turn)

    def earlier_units(self) -> list[Unit]:
        return units_of(message for message in self.newest.messages if message.turn != self.turn)


async def prepare(question: Question, budget: Budget) -> PreparedContext:
    """Raises ContextTooSmallError. Whatever else is missing is done without, and noted."""
    turn, earlier = question.turn_units(), question.earlier_units()
    if question.newest.is_all and tokens_of(earlier) + tokens_of(turn) <= budget.room:
        return PreparedContext(budget, turn, Selection(recent=earlier), is_whole=True)
    query = _query(turn)
    is_searched = Strategy.RETRIEVAL in shares_of(question.agent) and query.strip()
    hits = await _search(question, query) if is_searched else None
    return await _choose(question, budget, hits)


async def _search(question: Question, query: str) -> "Hits":
    """Both searches at once; that by meaning also has to make the question's vector."""
    by_words, by_meaning = await asyncio.gather(_find_by_words(question, query), _find_by_meaning(question, query))
    return Hits(by_words, by_meaning)


async def _find_by_words(question: Question, query: str) -> list[Hit]:
    return await _search_words(question.session_id, query, turn=question.turn, limit=retrieval.HITS)


async def _find_by_meaning(question: Question, query: str) -> list[Hit] | None:
    found = await embed_query(query)
    if found is None:
        return None
    name, vector = found
    return await _search_vectors(question.session_id, vector, model=name, turn=question.turn, limit=retrieval.HITS)


@dataclass(frozen=True)
class Hits:
    """What the searches found, best first; None if one could not be made."""

    by_words: list[Hit]
    by_meaning: list[Hit] | None


def _query(turn: Sequence[Unit]) -> str:
    """What is looked for: all that the user has said in this turn."""
    said = [message.content for unit in turn for message in unit.messages if message.role == Role.USER]
    return "\n".join(said)


def choose(question: Question, budget: Budget, hits: Hits | None) -> PreparedContext:
    """The part of the preparation that reads the database."""
    pinned = units_of(memory.pinned_messages(question.session_id, turn=question.turn))
    room = budget.require_room(tokens_of(pinned))
    turn = fit_turn(question.turn_units(), room)
    left = max(0, room - tokens_of(turn))
    fixed = {message.id for unit in pinned for message in unit.messages}
    earlier = [unit for unit in question.earlier_units() if not unit.ids & fixed]
    shares = shares_of(question.agent)
    material = Material(
        recent=earlier,
        ranked={
            strategy: [each for each in ranked if not any(message.id in fixed for message in each.entry.messages)]
            for strategy, ranked in _ranked(question, shares, hits, left).items()
        },
        summaries=_summaries(question) if {Strategy.SUMMARIZATION, Strategy.HIERARCHICAL} & set(shares) else (),
    )
    is_lame = hits is not None and hits.by_meaning is None and embedder() is not None
    notes = (NOT_BY_MEANING,) if is_lame else ()
    return PreparedContext(budget, turn, compose(material, shares, left), pinned, notes=notes)


_choose = in_database_thread(choose)
_search_words = in_database_thread(memory.find_by_words)
_search_vectors = in_database_thread(memory.find_by_meaning)


def _ranked(question: Question, shares: dict[str, float], hits: Hits | None, room: int) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    session_id, turn = question.session_id, question.turn
    if hits is not None:
        limit = min(MAX_ENTRIES, room // TOKENS_PER_ENTRY)
        ranked = retrieval.fuse(hits.by_words, hits.by_meaning or [], limit=limit)
        entries = memory.entries_at(session_id, [each.ordinal for each in ranked], turn=turn)
        found[Strategy.RETRIEVAL] = retrieval.candidates(ranked, entries)
    if Strategy.IMPORTANCE in shares:
        entries = memory.important_entries(session_id, turn=turn, limit=IMPORTANT)
        found[Strategy.IMPORTANCE] = importance.candidates(entries, timezone.now())
    return found


def _summaries(question: Question) -> list[SummaryText]:
    return [as_summary_text(each) for each in memory.standing_summaries(question.session_id, turn=question.turn)]


def as_summary_text(summary: Summary) -> SummaryText:
    return SummaryText(
        summary.pk,
        SummaryLevel(summary.level),
        summary.first_turn,
        summary.last_turn,
        summary.first_at,
        summary.last_at,
        summary.text,
        summary.tokens_after,
        summary.message_count,
        summary.tokens_before,
        summary.told_at is not None,
    )


def with_message(newest: Newest, message: PromptMessage) -> Newest:
    """As if this message had been sent."""
    return replace(newest, messages=[*newest.messages, message])
