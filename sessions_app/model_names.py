"""A model's name, with the endpoint that serves it: `model` or `model@endpoint`."""

from django.conf import settings

DEFAULT_ENDPOINT = "default"


def split_model_name(name: str) -> tuple[str, str]:
    """(model, endpoint). An `@` that no endpoint's name follows belongs to the model's own name, unless there is
    nothing before it."""
    model, at, endpoint = name.rpartition("@")
    if at and (endpoint in settings.MODEL_ENDPOINTS or not model):
        return model, endpoint
    return name, DEFAULT_ENDPOINT
