"""Prices of models."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest

from monitoring import prices
from monitoring.admin.quotas import AmountField
from monitoring.admin.showing import number
from monitoring.models import Price

_COLUMNS = ("input_price", "output_price", "cached_price", "reasoning_price")


class PriceForm(forms.ModelForm):
    class Meta:
        model = Price
        fields = "__all__"  # noqa: DJ007 (the admin lists them in its fieldsets)
        field_classes = dict.fromkeys(_COLUMNS, AmountField)
        help_texts = {
            "model": "As usage records name it. With a * at the end it is of all models that begin so, gpt-4.1*; a "
            "model's own price comes before that, a longer beginning before a shorter one; * alone is of all others.",
            "input_price": "Of a million input tokens, in your currency.",
            "output_price": "Of a million output tokens.",
            "cached_price": "Of a million input tokens from the provider's cache. Empty: as input.",
            "reasoning_price": "Of a million reasoning tokens. Empty: as output.",
            "effective_from": "In UTC. From then on, until a later price of the same name.",
        }


@admin.register(Price)
class PriceAdmin(admin.ModelAdmin):
    form = PriceForm
    list_display = ("model", "effective_from", "input", "output", "cached", "reasoning", "is_in_effect")
    list_filter = ("effective_from",)
    search_fields = ("model",)
    fieldsets = (
        (
            None,
            {
                "fields": ("model", "effective_from", *_COLUMNS),
                "description": "What a call has cost is on record with it: a price that is changed or deleted here "
                "counts for calls that are settled from then on (other processes follow within five seconds), and "
                "changes no recorded cost. A model without a price is free.",
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Price]:
        begun = Price.objects.filter(effective_from__lte=Now())
        later = begun.filter(model=OuterRef("model"), effective_from__gt=OuterRef("effective_from"))
        in_effect = Exists(begun.filter(pk=OuterRef("pk"))) & ~Exists(later)
        priced: QuerySet[Price] = super().get_queryset(request).annotate(in_effect=in_effect)
        return priced

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        transaction.on_commit(prices.forget)

    def delete_model(self, request: HttpRequest, obj: Price) -> None:
        super().delete_model(request, obj)
        transaction.on_commit(prices.forget)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Price]) -> None:
        super().delete_queryset(request, queryset)
        transaction.on_commit(prices.forget)

    @admin.display(boolean=True, description="in effect")
    def is_in_effect(self, price: Price) -> bool:
        return bool(price.in_effect)  # type: ignore[attr-defined]

    @admin.display(description="input, per million", ordering="input_price")
    def input(self, price: Price) -> str:
        return number(price.input_price)

    @admin.display(description="output", ordering="output_price")
    def output(self, price: Price) -> str:
        return number(price.output_price)

    @admin.display(description="cached", ordering="cached_price")
    def cached(self, price: Price) -> str:
        return "as input" if price.cached_price is None else number(price.cached_price)

    @admin.display(description="reasoning", ordering="reasoning_price")
    def reasoning(self, price: Price) -> str:
        return "as output" if price.reasoning_price is None else number(price.reasoning_price)
