"""The background's part: one session's index and summaries, by one worker at a time."""

import uuid

from django.core.cache import cache

from chat.context.compaction import summarize_session
from chat.context.embedding import embedder
from chat.context.indexing import circuit, index_session
from sessions_app.services.indexing import sessions_with_stale_embeddings

LOCK_SECONDS = 300  # longer than one task takes; a lost worker's lock is gone then
SESSIONS = 5


def tend_session(session_id: uuid.UUID) -> bool:
    """Bring it up to date; whether there is more to do. Two at once would only do the same twice."""
    lock = f"context:{session_id}"
    if not cache.add(lock, 1, LOCK_SECONDS):
        return False
    try:
        # In this order: a summary stands for many messages, and the vectors of long ones take a second each here.
        has_more_to_summarize = summarize_session(session_id)
        return index_session(session_id) or has_more_to_summarize
    finally:
        cache.delete(lock)


def sessions_to_embed() -> list[uuid.UUID]:
    """Some of those whose vectors are not the configured embedder's."""
    found = embedder()
    if found is None or circuit.is_open:
        return []
    return sessions_with_stale_embeddings(model=found.name, limit=SESSIONS)
