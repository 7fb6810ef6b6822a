"""`manage.py up`: the whole system by one command."""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from agentsite.supervisor.config import StartError, read_config
from agentsite.supervisor.supervisor import Supervisor


class Command(BaseCommand):
    help = "Start PostgreSQL, Valkey, the site and its workers, and keep them running until Ctrl-C."
    requires_system_checks: list[str] = []  # `prepare` runs them, once the databases are there

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            Supervisor(read_config()).run()
        except StartError as error:
            if str(error):
                self.stderr.write(f"agentsite: {error}")
            sys.exit(1)
