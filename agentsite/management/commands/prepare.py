"""`manage.py prepare`: checks, migrations and the credentials of a first run."""

import json
import secrets
import sys
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from agentsite.startup import refuse_to_start_if_misconfigured
from agentsite.supervisor.config import write_private
from sessions_app.models import AgentType
from sessions_app.services.login_links import create_login_link
from sessions_app.services.tokens import create_token


class Command(BaseCommand):
    help = "Bring the database up to date and make the first user. Safe to repeat."
    requires_system_checks: list[str] = []  # refuse_to_start_if_misconfigured says them in a line each

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--result", type=Path, help="Where to write the one-time login link, as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_to_start_if_misconfigured()
        self._check_redis()
        self.stdout.write("Migrating the database ...")
        call_command("migrate", interactive=False, verbosity=0)
        if settings.LOCAL_MODEL_URL:
            self._offer_local_model()
        user = self._first_user()
        if options["result"]:
            write_private(options["result"], json.dumps({"login_path": create_login_link(user=user)}))

    def _check_redis(self) -> None:
        try:
            with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=5.0) as client:
                client.ping()
        except (redis.RedisError, ValueError):
            self.stderr.write("agentsite: Redis cannot be reached. Check REDIS_URL.")
            sys.exit(1)

    def _offer_local_model(self) -> None:
        """As an agent type; what an operator has changed of it stays."""
        defaults = {
            "title": "Local",
            "description": "SmolLM2-135M on this machine: slow and small, but real. No tools.",
            "runtime": "chat",
            "model": "smollm2@local",
            "system_prompt": "You are a helpful assistant. Answer briefly.",
            "max_context_tokens": 3_000,  # it has 4,096, and counts them in another way
            "max_output_tokens": 500,
        }
        AgentType.objects.get_or_create(name="local", defaults=defaults)

    def _first_user(self) -> Any:
        """The first superuser; made with a password and an API token if there is none."""
        users = get_user_model().objects
        user = users.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if user is not None:
            return user
        password = secrets.token_urlsafe(12)
        user = users.create_superuser(username="admin", password=password)
        _, token = create_token(owner=user, name="First run")
        credentials = {"username": "admin", "password": password, "token": token}
        write_private(settings.DATA_DIR / "credentials.json", json.dumps(credentials, indent=2) + "\n")
        return user
