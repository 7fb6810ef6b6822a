from django.apps import AppConfig

from agentsite import checks, schema


class AgentsiteConfig(AppConfig):
    name = "agentsite"

    def ready(self) -> None:
        checks.register_all()
        assert schema.BearerTokenScheme  # drf-spectacular finds it once it is defined
