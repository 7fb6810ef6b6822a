from django.urls import re_path

from monitoring import budgets_api, usage_api, views

SESSION = r"^sessions/(?P<session_id>[^/]+)"

urlpatterns = [
    re_path(rf"{SESSION}/budgets/?$", budgets_api.BudgetsView.as_view(), name="budgets"),
    re_path(
        rf"{SESSION}/budgets/(?P<budget_id>[^/]+)/raise/?$", budgets_api.BudgetRaiseView.as_view(), name="budget-raise"
    ),
    re_path(r"^usage/?$", usage_api.UsageView.as_view(), name="usage"),
    re_path(r"^health/?$", views.HealthView.as_view(), name="health"),
    re_path(r"^health/detailed/?$", views.DetailedHealthView.as_view(), name="health-detailed"),
    re_path(r"^metrics/?$", views.MetricsView.as_view(), name="metrics"),
]
