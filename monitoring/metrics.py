"""Prometheus metrics, read from the record when they are scraped: the same whichever gateway answers."""

from collections.abc import Iterator

from django.db.models import Count, Sum
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from monitoring.budget_metrics import BudgetCollector
from monitoring.slots import count_slots
from monitoring.speculation import read_speculation
from monitoring.workers import connect, living_workers
from sessions_app.models import AgentSession, Run, RunStatus, UsageRecord
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.services.waiting import SLOT_TIMEOUT


class SiteCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        counts = dict(Run.objects.values_list("status").annotate(Count("pk")).order_by())
        active = GaugeMetricFamily("agentsite_runs_active", "Runs that are not finished.", labels=["status"])
        ended = CounterMetricFamily("agentsite_runs_finished", "Runs that are finished.", labels=["status"])
        for status in RunStatus:
            family = active if status in ACTIVE_STATUSES else ended
            family.add_metric([status.value], counts.get(status.value, 0))
        yield from (active, ended, self._sessions(), self._tokens(), self._workers(), self._speculation())
        yield from (self._slots(), self._slot_timeouts())

    def _sessions(self) -> Metric:
        count = AgentSession.objects.filter(deleted_at=None).count()
        return GaugeMetricFamily("agentsite_sessions", "Sessions that are not deleted.", value=count)

    def _slots(self) -> Metric:
        family = GaugeMetricFamily("agentsite_slots", "Slots of runs at work, and runs that wait.", labels=["state"])
        try:
            counts = count_slots()
        except RedisError:
            counts = {}
        for state, count in counts.items():
            family.add_metric([state], count)
        return family

    def _slot_timeouts(self) -> Metric:
        count = Run.objects.filter(status=RunStatus.FAILED, error_code=SLOT_TIMEOUT).count()
        return CounterMetricFamily("agentsite_slot_timeouts", "Runs that waited too long for a slot.", value=count)

    def _tokens(self) -> Metric:
        sums = UsageRecord.objects.aggregate(input=Sum("input_tokens"), output=Sum("output_tokens"))
        family = CounterMetricFamily("agentsite_tokens", "Tokens of all model calls.", labels=["direction"])
        for direction, value in sums.items():
            family.add_metric([direction], value or 0)
        return family

    def _workers(self) -> Metric:
        try:
            with connect() as redis:
                count = len(living_workers(redis))
        except RedisError:
            count = 0
        return GaugeMetricFamily("agentsite_workers", "Workers with a recent heartbeat.", value=count)

    def _speculation(self) -> Metric:
        family = CounterMetricFamily(
            "agentsite_speculation", "Work done before it was known to be needed.", labels=["kind", "outcome"]
        )
        try:
            with connect() as redis:
                counts = read_speculation(redis)
        except RedisError:
            counts = {}
        for names, count in counts.items():
            family.add_metric(list(names), count)
        return family


def render_metrics() -> bytes:
    registry = CollectorRegistry()
    registry.register(SiteCollector())
    registry.register(BudgetCollector())
    return generate_latest(registry)
