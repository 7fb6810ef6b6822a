"""The OpenAPI schema describes every endpoint and is the one in docs/."""

import io
from typing import Any

import pytest
import yaml
from django.core.management import call_command

from tests.fakes.processes import PROJECT


@pytest.fixture(scope="module")
def schema() -> str:
    written = io.StringIO()
    call_command("spectacular", "--fail-on-warn", stdout=written)
    return written.getvalue()


def test_the_schema_in_docs_is_current(schema: str) -> None:
    assert (PROJECT / "docs" / "openapi.yaml").read_text() == schema, "run `make schema`"


def test_every_operation_is_described(schema: str) -> None:
    paths: dict[str, Any] = yaml.safe_load(schema)["paths"]
    operations = [(path, name, item) for path, methods in paths.items() for name, item in methods.items()]
    assert len(operations) > 25
    assert not [(path, name) for path, name, item in operations if not item.get("summary")]
    assert not [path for path in paths if path != "/" and path.endswith("/")]


def test_the_docs_page_loads_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/docs").content.decode()
    assert "/static/drf_spectacular_sidecar/" in page
    assert "https://" not in page.replace("https://github.com", "")
