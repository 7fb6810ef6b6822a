"""What is too large is cut in its middle, with a mark: the beginning and the end say most."""

from collections.abc import Sequence
from dataclasses import replace

from chat.context.units import Unit, as_unit, tokens_of
from sessions_app.models import Role
from sessions_app.prompt import PromptMessage
from sessions_app.token_counting import TOKENS_PER_MESSAGE, count_tokens, encoding

MARK = "\n[… {} tokens were cut here …]\n"
MARK_TOKENS = 16  # at most
SHORT = 64  # tokens that are left of a cut message while another can still be cut
_CHARACTERS_PER_TOKEN = 8  # looked at, per token that may stay: enough for words, and bounds the work


def cut(text: str, max_tokens: int) -> str:
    """The text in at most so many tokens: its two ends with a mark between them, or the beginning of it if there is
    no room for a mark."""
    if len(text.encode()) <= max_tokens:  # no token is less than a byte
        return text
    total = count_tokens(text)
    if total <= max_tokens:
        return text
    if max_tokens <= MARK_TOKENS:
        return _first(text, max_tokens)
    half = (max_tokens - MARK_TOKENS) // 2
    head, tail = _first(text, half), _last(text, half)
    return f"{head}{MARK.format(total - count_tokens(head) - count_tokens(tail))}{tail}"


def _first(text: str, tokens: int) -> str:
    part = text[: tokens * _CHARACTERS_PER_TOKEN]
    while tokens > 0:
        kept = encoding().decode(encoding().encode_ordinary(part)[:tokens], errors="ignore")
        if count_tokens(kept) <= tokens:
            return kept
        part = kept[:-1]
    return ""


def _last(text: str, tokens: int) -> str:
    part = text[len(text) - tokens * _CHARACTERS_PER_TOKEN :] if len(text) > tokens * _CHARACTERS_PER_TOKEN else text
    while tokens > 0:
        kept = encoding().decode(encoding().encode_ordinary(part)[-tokens:], errors="ignore")
        if count_tokens(kept) <= tokens:
            return kept
        part = kept[1:]
    return ""


def cut_message(message: PromptMessage, max_tokens: int) -> PromptMessage:
    """The message with its content cut so that it takes at most so many tokens, its calls' own not counted."""
    calls = message.token_count - TOKENS_PER_MESSAGE - count_tokens(message.content)
    kept = cut(message.content, max(0, max_tokens - TOKENS_PER_MESSAGE - max(0, calls)))
    return replace(message, content=kept, token_count=TOKENS_PER_MESSAGE + max(0, calls) + count_tokens(kept))


def fit_turn(units: Sequence[Unit], room: int) -> list[Unit]:
    """The running turn in the room that there is: its largest texts are cut, then its oldest steps left out, and last
    the user's own message is cut too."""
    kept = list(units)
    for is_user_spared in (True, False):
        while (excess := tokens_of(kept) - room) > 0:
            place = _largest(kept, is_user_spared=is_user_spared)
            if place is None:
                break
            number, index = place
            messages = list(kept[number].messages)
            messages[index] = cut_message(messages[index], max(SHORT, messages[index].token_count - excess))
            kept[number] = as_unit(messages)
        while is_user_spared and tokens_of(kept) > room and len(kept) > 2:
            del kept[1]  # the oldest step behind the user's message
    return kept


def _largest(units: Sequence[Unit], *, is_user_spared: bool) -> tuple[int, int] | None:
    """Where the largest message stands that can still be cut."""
    places = [
        (count_cuttable(message), number, index)
        for number, unit in enumerate(units)
        for index, message in enumerate(unit.messages)
        if not (is_user_spared and message.role == Role.USER)
    ]
    tokens, number, index = max(places, default=(0, 0, 0))
    return (number, index) if tokens > SHORT else None


def count_cuttable(message: PromptMessage) -> int:
    """Tokens of the message that are its content's, about."""
    calls = sum(len(str(call.get("arguments", ""))) for call in message.tool_calls) // 3
    return min(message.token_count - calls, TOKENS_PER_MESSAGE + len(message.content.encode()))
