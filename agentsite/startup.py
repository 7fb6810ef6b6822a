"""A server that cannot serve says so in a line and does not start."""

import sys

from django.core.checks import ERROR, run_checks
from django.db import connection
from django.db.utils import Error as DatabaseError

CONNECT_SECONDS = 5


def refuse_to_start_if_misconfigured() -> None:
    """Called by the ASGI application and by the workers; raises SystemExit(1) with a line for each problem."""
    problems = [f"{message.msg} ({message.id})" for message in run_checks() if message.level >= ERROR]
    if not problems:
        problems = _database_problems()
    if problems:
        for problem in problems:
            print(f"agentsite: {problem}", file=sys.stderr)
        raise SystemExit(1)


def _database_problems() -> list[str]:
    settings = connection.settings_dict
    alone = connection.copy()  # the pool would try again and again, and tell of each time
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
    alone.settings_dict["OPTIONS"] = {"connect_timeout": CONNECT_SECONDS, **options}
    try:
        alone.ensure_connection()
    except DatabaseError:
        # Not the driver's own words: they may hold the password.
        where = settings["HOST"] or settings["OPTIONS"].get("host") or "localhost"
        return [f"The database {settings['NAME']!r} at {where} cannot be reached. Check DATABASE_URL."]
    finally:
        alone.close()
    return []
