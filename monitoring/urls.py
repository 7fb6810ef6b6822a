from django.urls import re_path

from monitoring import views

urlpatterns = [
    re_path(r"^health/?$", views.HealthView.as_view(), name="health"),
    re_path(r"^health/detailed/?$", views.DetailedHealthView.as_view(), name="health-detailed"),
    re_path(r"^metrics/?$", views.MetricsView.as_view(), name="metrics"),
]
