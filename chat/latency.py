"""The techniques that shorten the wait, each of which the setting LATENCY_TECHNIQUES may leave out."""

from enum import StrEnum

from django.conf import settings


class Technique(StrEnum):
    POOLING = "pooling"  # connections to the models' servers are kept alive
    CACHING = "caching"  # prompts are marked for the provider's cache
    SPECULATION = "speculation"  # work is done before it is known to be needed
    PARALLEL_TOOLS = "parallel_tools"  # the calls of one answer run at once
    WARM_UP = "warm_up"  # endpoints are called before the first run needs them, and while idle
    STREAMING = "streaming"  # the first delta leaves at once, not with the next flush


def is_used(technique: Technique) -> bool:
    return technique in settings.LATENCY_TECHNIQUES
