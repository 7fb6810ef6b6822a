"""How far the counts here are from the provider's: models have encodings that tiktoken does not know."""

import time

from sessions_app.memory import input_ratio

RECORDS = 20  # newest model calls that are compared
KEPT_SECONDS = 60.0
_LOWEST, _HIGHEST = 0.8, 2.5  # a provider that reports nonsense shall not empty the prompt
_known: dict[str, tuple[float, float]] = {}  # model -> until when, ratio


def ratio_of(model: str) -> float:
    """The provider's input tokens to ours, by this model's newest calls; 1 until there are enough."""
    until, ratio = _known.get(model, (0.0, 1.0))
    if time.monotonic() < until:
        return ratio
    found = input_ratio(model, records=RECORDS)
    ratio = min(max(found, _LOWEST), _HIGHEST) if found else 1.0
    _known[model] = (time.monotonic() + KEPT_SECONDS, ratio)
    return ratio
