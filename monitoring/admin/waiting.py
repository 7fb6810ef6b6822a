"""What is under way, and what waits for a budget."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from monitoring.admin.showing import NamingChangeList, amount, named, subject_link
from monitoring.models import Account, BudgetPause, Measure, Quota, Reservation
from monitoring.pausing import resume_paused
from sessions_app.admin.readonly import ReadOnlyAdmin, list_link

_CURRENCY = Quota(measure=Measure.COST)  # whose units reservations' cost has


@admin.register(BudgetPause)
class BudgetPauseAdmin(ReadOnlyAdmin):
    list_display = ("run", "quota", "whose", "needed_shown", "account", "created_at")
    list_filter = ("quota", "created_at")
    list_select_related = ("run", "quota")
    search_fields = ("run__id", "run__session__id", "run__session__owner__username", "subject")
    readonly_fields = ("whose", "needed_shown", "account")
    fields = ("run", "quota", "whose", "needed_shown", "created_at", "account")
    actions = ("look_again",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[NamingChangeList]:
        return NamingChangeList

    @admin.display(description="of", ordering="subject")
    def whose(self, pause: BudgetPause) -> SafeString | str:
        return subject_link(named(pause))

    @admin.display(description="needed", ordering="needed")
    def needed_shown(self, pause: BudgetPause) -> str:
        return f"{amount(pause.quota, pause.needed)} {pause.quota.measure}"

    @admin.display(description="")
    def account(self, pause: BudgetPause) -> SafeString:
        query = f"now=1&quota__id__exact={pause.quota_id}&q={pause.subject}"
        return list_link(Account, query, "Raise it")

    @admin.action(description="Look again now: what fits by now goes on", permissions=["look_again"])
    def look_again(self, request: HttpRequest, pauses: QuerySet[BudgetPause]) -> None:
        count = resume_paused()
        messages.success(request, f"{count} of all that wait go on." if count else "None of them fits yet.")

    def has_look_again_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("monitoring.change_budgetpause")


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    """A model call that is under way. Its usage record takes it away."""

    list_display = ("model", "owner", "session", "tokens", "money", "purpose", "created_at")
    list_filter = ("purpose", "model", "created_at")
    list_select_related = ("session__owner",)
    search_fields = ("session__id", "run__id", "session__owner__username")
    ordering = ("-pk",)
    fields = ("session", "run", "epoch", "purpose", "model", "input_tokens", "output_tokens", "money", "created_at")
    readonly_fields = ("money",)

    @admin.display(ordering="session__owner")
    def owner(self, reservation: Reservation) -> Any:
        return reservation.session.owner

    @admin.display(description="tokens in / out", ordering="input_tokens")
    def tokens(self, reservation: Reservation) -> str:
        return f"{reservation.input_tokens:,} / {reservation.output_tokens:,}"

    @admin.display(description="cost", ordering="cost")
    def money(self, reservation: Reservation) -> str:
        return amount(_CURRENCY, reservation.cost)
