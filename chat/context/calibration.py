"""How far the counts here are from the provider's: models have encodings that tiktoken does not know."""

import math
import time

from sessions_app.memory import input_ratio
from sessions_app.model_names import split_model_name

RECORDS = 20  # newest model calls that are compared
KEPT_SECONDS = 60.0
_LOWEST, _HIGHEST = 0.8, 2.5  # a provider that reports nonsense shall not empty the prompt
# What a provider counts differs from message to message too; nothing is to be used that was not reserved.
_MARGIN = 1.05
_known: dict[str, tuple[float, float]] = {}  # model -> until when, ratio


def ratio_of(model: str) -> float:
    """The provider's input tokens to ours, by this model's newest calls; 1 until there are enough."""
    model, _ = split_model_name(model)  # as usage names it
    until, ratio = _known.get(model, (0.0, 1.0))
    if time.monotonic() < until:
        return ratio
    found = input_ratio(model, records=RECORDS)
    ratio = min(max(found, _LOWEST), _HIGHEST) if found else 1.0
    _known[model] = (time.monotonic() + KEPT_SECONDS, ratio)
    return ratio


def worst_input(prompt_tokens: int, ratio: float) -> int:
    """What the provider may count at most for a prompt of so many tokens as they are counted here."""
    return math.ceil(prompt_tokens * ratio * _MARGIN)
