"""`manage.py check_ledger`: whether the accounts say what the usage records say."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from monitoring.accounts import name_subjects
from monitoring.ledger import Difference, differences
from monitoring.models import Account


class Command(BaseCommand):
    help = "Compare the budgets' accounts with the usage records. Exit code 1 if they differ."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--recount", action="store_true", help="Sum up those that differ anew, at their next call.")

    def handle(self, *args: Any, **options: Any) -> None:
        found = differences()
        names = name_subjects(each.account.subject for each in found)
        for each in found:
            self.stdout.write(_line(each, names[each.account.subject].name))
        if not found:
            self.stdout.write(
                f"{Account.objects.filter(is_counted=True).count()} accounts agree with the usage records."
            )
            return
        if options["recount"]:
            Account.objects.filter(pk__in=[each.account.pk for each in found]).update(is_counted=False)
        sys.exit(1)


def _line(difference: Difference, subject: str) -> str:
    account = difference.account
    used, recorded = (account.quota.amount(units) for units in (difference.used, difference.by_records))
    period = f"{account.period_start:%Y-%m-%d %H:%M}"
    return f"{account.quota} of {subject}, {period}: {used:f} in the account, {recorded:f} in the records"
