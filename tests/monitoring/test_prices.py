"""What tokens cost."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from monitoring import prices
from monitoring.models import Price
from monitoring.prices import FREE, PriceList, price_list, read_prices
from sessions_app.services.recording import Usage

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_known(db: None) -> Any:
    prices.forget()
    yield
    prices.forget()


def price(model: str, input: str = "1", output: str = "2", **fields: Any) -> Price:
    made = Price(model=model, input_price=Decimal(input), output_price=Decimal(output), **fields)
    made.full_clean()
    made.save()
    prices.forget()
    return made


def now() -> PriceList:
    return read_prices(timezone.now())


def test_a_model_without_a_price_is_free() -> None:
    price("other")
    assert now().of("m") == FREE
    assert now().cost_of(Usage(10**6, 10**6, model="m")) == 0


def test_a_price_holds_from_its_date_to_the_next() -> None:
    moment = timezone.now()
    for days, amount in [(-20, "1"), (-10, "2"), (10, "3")]:
        price("m", amount, effective_from=moment + timedelta(days=days))
    asked = [read_prices(moment + timedelta(days=days)).of("m").input for days in (-21, -20, -11, -10, 9, 10)]
    assert asked == [0, 1_000_000, 1_000_000, 2_000_000, 2_000_000, 3_000_000]


def test_a_star_stands_for_the_rest_of_a_name_and_the_longest_wins() -> None:
    for model, amount in [("*", "1"), ("gpt-*", "2"), ("gpt-4*", "3"), ("gpt-4", "4")]:
        price(model, amount)
    found = {model: now().of(model).input // 1_000_000 for model in ("gpt-4", "gpt-4-mini", "gpt-3", "qwen", "")}
    assert found == {"gpt-4": 4, "gpt-4-mini": 3, "gpt-3": 2, "qwen": 1, "": 1}


def test_cached_and_reasoning_tokens_have_prices_of_their_own() -> None:
    price("m", "10", "40", cached_price=Decimal("2.5"), reasoning_price=Decimal(60))
    usage = Usage(1_000, 100, 400, 50, "m")
    assert now().cost_of(usage) == 600 * 10 + 400 * 2.5 + 50 * 40 + 50 * 60


def test_without_them_they_cost_what_the_others_do() -> None:
    price("m", "10", "40")
    assert now().cost_of(Usage(1_000, 100, 400, 50, "m")) == 1_000 * 10 + 100 * 40
    price("free", "10", "40", cached_price=Decimal(0), reasoning_price=Decimal(0))
    assert now().cost_of(Usage(1_000, 100, 1_000, 100, "free")) == 0


def test_more_cached_tokens_than_input_cost_no_less_than_nothing() -> None:
    price("m", "10", "40", cached_price=Decimal(1))
    assert now().cost_of(Usage(10, 1, 99, 99, "m")) == 10 + 40


def test_a_cost_is_rounded_up_to_a_millionth() -> None:
    price("m", "0.000001", "0")
    assert now().cost_of(Usage(0, 0, model="m")) == 0
    assert now().cost_of(Usage(1, 0, model="m")) == 1
    assert now().cost_of(Usage(1_000_000, 0, model="m")) == 1
    assert now().cost_of(Usage(1_000_001, 0, model="m")) == 2


def test_the_dearest_is_no_less_than_any_of_them() -> None:
    price("a", "10", "20", cached_price=Decimal(15), reasoning_price=Decimal(90))
    price("b", "12", "50")
    dearest = now().dearest(["a", "b", "unknown"])
    assert (dearest.input, dearest.output) == (15_000_000, 90_000_000)
    assert now().dearest([]) == FREE


def test_what_was_read_is_kept_until_a_price_changes_here() -> None:
    price("m")
    assert price_list().of("m").input == 1_000_000
    Price.objects.update(input_price=5)
    assert price_list().of("m").input == 1_000_000
    prices.forget()
    assert price_list().of("m").input == 5_000_000


@pytest.mark.parametrize("column", ["input_price", "output_price", "cached_price", "reasoning_price"])
def test_a_price_is_not_negative(column: str) -> None:
    values = {"input_price": Decimal(1), "output_price": Decimal(1), column: Decimal("-0.1")}
    with pytest.raises(ValidationError) as refused:
        Price(model="m", **values).full_clean()
    assert list(refused.value.message_dict) == [column]


def test_a_star_stands_at_the_end() -> None:
    for model in ("*-mini", "gpt*4", "**"):
        with pytest.raises(ValidationError):
            price(model)


def test_a_model_has_one_price_at_a_time() -> None:
    made = price("m")
    with pytest.raises(ValidationError):
        price("m", effective_from=made.effective_from)
