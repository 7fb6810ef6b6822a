"""The background's part: one session's index and summaries, by one worker at a time."""

import uuid

from django.core.cache import cache

from chat.context.compaction import summarize_session
from chat.context.embedding import embedder
from chat.context.indexing import circuit, index_session
from sessions_app.services.indexing import sessions_with_stale_embeddings

LOCK_SECONDS = 300  # longer than one task takes; a lost worker's lock is gone then
ROUNDS = 20  # in one task: others want the worker too
SESSIONS = 5


def tend_session(session_id: uuid.UUID) -> bool:
    """Bring it up to date; whether there is more to do. Two at once would only do the same twice."""
    lock = f"context:{session_id}"
    if not cache.add(lock, 1, LOCK_SECONDS):
        return False
    try:
        # By turns, and summaries first: each stands for many messages, and vectors of long ones take their time.
        return all(_has_done_some(session_id) for _ in range(ROUNDS))
    finally:
        cache.delete(lock)


def _has_done_some(session_id: uuid.UUID) -> bool:
    has_summarized = summarize_session(session_id)
    return index_session(session_id, batches=1) or has_summarized


def sessions_to_embed() -> list[uuid.UUID]:
    """Some of those whose vectors are not the configured embedder's."""
    found = embedder()
    if found is None or circuit.is_open:
        return []
    return sessions_with_stale_embeddings(model=found.name, limit=SESSIONS)
