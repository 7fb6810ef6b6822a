"""Keeps the index behind the conversation: in the background, in batches, as often as somebody asks for it."""

import logging
import uuid
from collections.abc import Sequence

from chat.agents.base import ModelError
from chat.context import importance
from chat.context.circuit import Circuit
from chat.context.embedding import EmbeddingError, Vectors, embed_passages, embedder
from chat.context.excerpts import excerpt_text
from chat.context.remote import run_alone
from chat.context.units import Unit, units_of
from sessions_app.memory import Entry, entries_at
from sessions_app.models import Role
from sessions_app.services import indexing
from sessions_app.services.indexing import NewEntry, Unindexed

logger = logging.getLogger(__name__)

BATCH = 32  # entries that are embedded at once
BATCH_CHARACTERS = 12_000  # the same, of long ones
MESSAGES = 64  # read for a batch
_TEXT, _BEFORE = 3_000, 600  # characters of an entry, and of the one before it, that make its vector

circuit = Circuit()


def index_session(session_id: uuid.UUID, *, batches: int = 20) -> bool:
    """Add what is not in the index yet, and make stale vectors anew; whether there is more to do."""
    return all(_add_batch(session_id) or _embed_stale(session_id) for _ in range(batches))


def _add_batch(session_id: uuid.UUID) -> bool:
    found, units = _unindexed_units(session_id)
    units = _batch_of(units)
    if not units:
        return False
    before = excerpt_text(found.before) if found.before else ""
    texts = [excerpt_text(Entry(0, 0.0, unit.messages)) for unit in units]
    vectors = _embed(_with_before(before, texts))
    name = vectors[0] if vectors else ""
    entries = [
        NewEntry(
            unit.messages[0],
            max(message.position for message in unit.messages),
            text,
            importance.score(unit.messages, _answer_to(unit, found_unit)),
            vectors[1][number] if vectors else None,
            name,
        )
        for number, (unit, text, found_unit) in enumerate(zip(units, texts, [*units[1:], None], strict=True))
    ]
    indexing.add_entries(entries, first_ordinal=found.next_ordinal)
    return True


def _batch_of(units: Sequence[Unit]) -> list[Unit]:
    """As many as are embedded at once, one at least."""
    batch: list[Unit] = []
    characters = 0
    for unit in units[:BATCH]:
        characters += min(_TEXT, sum(len(message.content) for message in unit.messages))
        if batch and characters > BATCH_CHARACTERS:
            break
        batch.append(unit)
    return batch


def _unindexed_units(session_id: uuid.UUID) -> tuple[Unindexed, list[Unit]]:
    """What is to be indexed next, whole units only: the results of the last one may stand on the next page."""
    limit = MESSAGES
    while True:
        found = indexing.unindexed(session_id, limit=limit)
        units = units_of(found.messages)
        if len(found.messages) < limit:
            return found, units
        if len(units) > 1:
            return found, units[:-1]
        limit *= 4  # one call with more results than a page has


def _answer_to(unit: Unit, following: Unit | None) -> str:
    """What the assistant said after a tool's results."""
    if len(unit.messages) == 1 or following is None or following.messages[0].role != Role.ASSISTANT:
        return ""
    return following.messages[0].content


def _embed_stale(session_id: uuid.UUID) -> bool:
    found = embedder()
    if found is None or circuit.is_open:
        return False
    ordinals = indexing.stale_ordinals(session_id, model=found.name, limit=BATCH)
    if not ordinals:
        return False
    wanted = {*ordinals, *(ordinal - 1 for ordinal in ordinals)}
    entries = {entry.ordinal: entry for entry in entries_at(session_id, sorted(wanted), turn=2**31 - 1)}
    texts = {entries[ordinal].messages[0].id: _text_of(entries, ordinal) for ordinal in ordinals if ordinal in entries}
    vectors = _embed(list(texts.values()))
    if vectors is None or not texts:
        return False
    indexing.set_embeddings(dict(zip(texts, vectors[1], strict=True)), model=vectors[0])
    return True


def _text_of(entries: dict[int, Entry], ordinal: int) -> str:
    before = entries.get(ordinal - 1)
    return _joined(excerpt_text(before) if before else "", excerpt_text(entries[ordinal]))


def _with_before(before: str, texts: Sequence[str]) -> list[str]:
    return [_joined(earlier, text) for earlier, text in zip([before, *texts], texts, strict=False)]


def _joined(before: str, text: str) -> str:
    """What an entry's vector is made of: an answer means little without what it answers."""
    return f"{before[-_BEFORE:]}\n{text[:_TEXT]}" if before else text[:_TEXT]


def _embed(texts: Sequence[str]) -> tuple[str, Vectors] | None:
    """None if there is no embedder, or if it fails: the entries are found by their words meanwhile."""
    if circuit.is_open or not texts:
        return None
    try:
        vectors = run_alone(embed_passages(texts))
    except (EmbeddingError, ModelError) as error:
        circuit.failed()
        logger.warning("Messages are indexed without vectors: %s", error)
        return None
    circuit.succeeded()
    return vectors
