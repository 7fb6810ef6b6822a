from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone

_NOT_NEGATIVE = [MinValueValidator(Decimal(0))]


def _per_million(help_text: str, **options: Any) -> Any:
    return models.DecimalField(
        max_digits=12, decimal_places=6, validators=_NOT_NEGATIVE, help_text=f"{help_text}, per million.", **options
    )


class Price(models.Model):
    """What a model's tokens cost, in the operator's currency, from a date on."""

    model = models.CharField(max_length=200, help_text="As usage names it; a * at the end stands for anything.")
    effective_from = models.DateTimeField(default=timezone.now)
    input_price = _per_million("Input tokens")
    output_price = _per_million("Output tokens")
    cached_price = _per_million("Input tokens from the provider's cache. Empty: as input", null=True, blank=True)
    reasoning_price = _per_million("Reasoning tokens. Empty: as output", null=True, blank=True)

    class Meta:
        ordering = ["model", "-effective_from"]
        constraints = [models.UniqueConstraint(fields=["model", "effective_from"], name="price_once")]

    def __str__(self) -> str:
        return f"{self.model} from {self.effective_from:%Y-%m-%d}"

    def clean(self) -> None:
        """Refuse what would never match; raises ValidationError."""
        if "*" in self.model[:-1]:
            raise ValidationError({"model": "A * stands at the end, and stands for anything."})
