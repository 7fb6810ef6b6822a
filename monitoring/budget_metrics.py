"""Prometheus metrics of budgets: few series, however many users and sessions there are."""

from collections.abc import Iterator

from django.db.models import Sum
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.accounts import current_accounts
from monitoring.models import BudgetPause, Quota, Reservation, Scope
from sessions_app.models import UsageRecord

_SCOPES = (Scope.SITE, Scope.AGENT_TYPE, Scope.GROUP)  # of which there are few


class BudgetCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        cost = UsageRecord.objects.aggregate(cost=Sum("cost"))["cost"] or 0
        yield CounterMetricFamily("agentsite_cost", "What all model calls have cost, by the price table.", value=cost)
        yield self._used()
        count = BudgetPause.objects.count()
        yield GaugeMetricFamily("agentsite_budget_pauses", "Runs that wait for a budget.", value=count)
        count = Reservation.objects.count()
        yield GaugeMetricFamily("agentsite_reservations", "Model calls under way that a budget counts.", value=count)

    def _used(self) -> Metric:
        family = GaugeMetricFamily(
            "agentsite_budget_used_ratio", "What of a budget is used or reserved now.", labels=["quota", "subject"]
        )
        budgets = Quota.objects.filter(is_enabled=True, scope__in=_SCOPES)
        for account in current_accounts(budgets).filter(is_counted=True):
            if account.percent is not None:
                family.add_metric([account.quota.name, account.subject], account.percent / 100)
        return family
