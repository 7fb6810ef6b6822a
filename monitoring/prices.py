"""What tokens cost, by the price table."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from django.utils import timezone

from monitoring.models import Price
from monitoring.models.quota import MICRO
from sessions_app.services.recording import Usage

KEPT_SECONDS = 5.0


@dataclass(frozen=True)
class Rates:
    """Of one model: millionths of the currency for a million tokens."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0


FREE = Rates()


@dataclass(frozen=True)
class PriceList:
    """The prices of one moment, by model; a name that ends with * stands for all that begin so."""

    rates: dict[str, Rates] = field(default_factory=dict)

    def of(self, model: str) -> Rates:
        """The model's own, or that of the longest beginning; FREE if there is none."""
        if model in self.rates:
            return self.rates[model]
        beginnings = [name for name in self.rates if name.endswith("*") and model.startswith(name[:-1])]
        return self.rates[max(beginnings, key=len)] if beginnings else FREE

    def dearest(self, models: Iterable[str]) -> Rates:
        """The worst that tokens of any of these models can cost; cached and reasoning ones are no dearer then."""
        found = [self.of(model) for model in models]
        most_input = max((max(rates.input, rates.cached) for rates in found), default=0)
        most_output = max((max(rates.output, rates.reasoning) for rates in found), default=0)
        return Rates(most_input, most_output, most_input, most_output)

    def cost_of(self, usage: Usage) -> int:
        """In millionths of the currency, rounded up. Cached tokens are part of the input, reasoning of the output."""
        rates = self.of(usage.model)
        cached = min(usage.cached_tokens, usage.input_tokens)
        reasoning = min(usage.reasoning_tokens, usage.output_tokens)
        cost = (
            (usage.input_tokens - cached) * rates.input
            + cached * rates.cached
            + (usage.output_tokens - reasoning) * rates.output
            + reasoning * rates.reasoning
        )
        return -(-cost // 1_000_000)


class _Known:
    until = 0.0
    prices = PriceList()


def price_list() -> PriceList:
    """The prices of now, at most KEPT_SECONDS old."""
    if time.monotonic() > _Known.until:
        _Known.prices = read_prices(timezone.now())
        _Known.until = time.monotonic() + KEPT_SECONDS
    return _Known.prices


def forget() -> None:
    """A price has changed here: read them again."""
    _Known.until = 0.0


def read_prices(at: datetime) -> PriceList:
    """The prices that were in effect at a time."""
    rates = {}
    for price in Price.objects.filter(effective_from__lte=at).order_by("effective_from"):
        input_price, output_price = _micro(price.input_price), _micro(price.output_price)
        rates[price.model] = Rates(
            input_price,
            output_price,
            input_price if price.cached_price is None else _micro(price.cached_price),
            output_price if price.reasoning_price is None else _micro(price.reasoning_price),
        )
    return PriceList(rates)


def _micro(price: Decimal) -> int:
    return int(price * MICRO)
