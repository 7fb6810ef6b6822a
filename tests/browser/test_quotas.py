"""A quota's page in the admin, while calls are made."""

import pytest
from playwright.sync_api import Page, expect

from tests.site import Site

_MAKE = """
from django.contrib.auth.models import User
from monitoring.models import Quota
user = User.objects.get(username="admin")
quota = Quota.objects.create(name="live", scope="user", user=user, measure="tokens", period="total", limit=100_000)
print("quota", quota.pk)
"""
_RESERVE = """
from django.contrib.auth.models import User
from monitoring.ledger import ModelCall, reserve
from sessions_app.services.sessions import create_session
session = create_session(owner=User.objects.get(username="admin"), agent_type="demo")
print("reserved", reserve(ModelCall(session.pk, ["m"], %s, 0, 0)).id)
"""
_END = "from monitoring.models import Quota, Reservation; Reservation.objects.all().delete(); "
_END += "Quota.objects.get(name='live').delete()"


def python(site: Site, code: str) -> str:
    return site.manage("shell", "-v", "0", "-c", code).strip()


@pytest.mark.complains("status of 404")  # the admin has no icon
def test_the_accounts_of_a_quota_are_kept_up_to_date_and_the_form_is_left_alone(page: Page, site: Site) -> None:
    quota = python(site, _MAKE).split("quota ")[1]
    python(site, _RESERVE % 12_345)
    page.goto(f"{site.url}/admin/monitoring/quota/{quota}/change/")
    accounts = page.locator("table.accounts")
    expect(accounts).to_contain_text("user admin")
    expect(accounts).to_contain_text("12,345")
    page.fill("#id_limit", "777")
    python(site, _RESERVE % 20_000)
    expect(accounts).to_contain_text("32,345", timeout=15_000)
    expect(page.locator("#id_limit")).to_have_value("777")
    python(site, _END)
