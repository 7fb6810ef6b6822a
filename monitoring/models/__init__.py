from monitoring.models.ledger import Account, BudgetPause, Reservation
from monitoring.models.price import Price
from monitoring.models.quota import Action, Measure, Period, Quota, QuotaChange, Scope

__all__ = [
    "Account",
    "Action",
    "BudgetPause",
    "Measure",
    "Period",
    "Price",
    "Quota",
    "QuotaChange",
    "Reservation",
    "Scope",
]
