"""The operators' view of limits: quotas and prices to edit, accounts to raise, the rest to read."""

from monitoring.admin import accounts, audit, prices, quotas, waiting

__all__ = ["accounts", "audit", "prices", "quotas", "waiting"]
