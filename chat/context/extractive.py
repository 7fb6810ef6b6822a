"""The summary without a model: the sentences that say most, in their order, as they were said."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chat.context.cutting import cut
from sessions_app.token_counting import count_tokens

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_WORD = re.compile(r"\w{3,}")
_SPEAKS_FOR = re.compile(
    r"\d|\b(decid\w+|agree\w*|will|must|need|want|prefer|plan\w*|because|name|deadline|important|remember)\b", re.I
)
MAX_SENTENCES = 2_000
_LONG = 60  # tokens of one sentence that is shown


@dataclass(frozen=True)
class Line:
    """Something that was said."""

    speaker: str
    text: str


def extract(lines: Sequence[Line], max_tokens: int) -> str:
    """At most so many tokens of the lines; not empty if they are not."""
    sentences = [
        (line.speaker, part.strip()) for line in lines for part in _SENTENCE.split(line.text) if _WORD.search(part)
    ][:MAX_SENTENCES]
    if not sentences:
        return cut("\n".join(line.text for line in lines).strip() or "(nothing was said)", max_tokens)
    kept = _choose([text for _, text in sentences], max_tokens)
    shown, speaker = [], ""
    for number in kept:
        who, text = sentences[number]
        shown.append(f"{who}: {cut(text, _LONG)}" if who and who != speaker else cut(text, _LONG))
        speaker = who
    return cut("\n".join(shown), max_tokens)


def _choose(texts: Sequence[str], max_tokens: int) -> list[int]:
    """The places of the best sentences: those that share words with many others, and those with facts in them."""
    words = [{word.lower() for word in _WORD.findall(text)} for text in texts]
    frequency = Counter(word for found in words for word in found)
    seen: set[str] = set()
    scores = []
    for number, text in enumerate(texts):
        weight = sum(frequency[word] ** 0.5 for word in words[number]) / (8 + len(words[number]))
        scores.append((weight * (1.5 if _SPEAKS_FOR.search(text) else 1.0), -number))
    left, kept = max_tokens, []
    for _, place in sorted(scores, reverse=True):
        text = texts[-place]
        cost = min(count_tokens(text[: _LONG * 8]), _LONG) + 5
        if text in seen or cost > left:
            continue
        seen.add(text)
        kept.append(-place)
        left -= cost
    return sorted(kept) or [0]
