from django.apps import AppConfig

from agentsite import checks, schema  # noqa: F401 (drf-spectacular finds what is defined)


class AgentsiteConfig(AppConfig):
    name = "agentsite"

    def ready(self) -> None:
        checks.register_all()
