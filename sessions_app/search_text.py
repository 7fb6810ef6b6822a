"""What of a text is searched by words: PostgreSQL's parser takes a run of Chinese, Japanese or Thai for one word."""

import re

MAX_CHARACTERS = 20_000  # of one message; a tsvector has an end, and so has patience
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{2,}"  # kana and Han
)


def searchable(text: str) -> str:
    """The text as the parser should get it: what is written without spaces as its pairs of characters."""
    return _UNSPACED.sub(_in_pairs, text[:MAX_CHARACTERS].replace("\x00", " "))


def _in_pairs(run: "re.Match[str]") -> str:
    characters = run.group()
    return " ".join(characters[i : i + 2] for i in range(len(characters) - 1)) + " "
