"""How large the context of an agent type is."""

from django.conf import settings


def context_limit(max_context_tokens: int | None) -> int:
    """Tokens of prompt and answer together."""
    return max_context_tokens or settings.MODEL_CONTEXT_TOKENS


def reserve_of(limit: int) -> int:
    """Tokens that are kept free for the answer."""
    return int(min(settings.MODEL_RESERVE_TOKENS, limit // 4))
