from rest_framework.exceptions import ValidationError
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request


class Pages(LimitOffsetPagination):
    """`?limit=&offset=`, at most 100 rows a page. Numbers that make no sense are refused; DRF would pass over them."""

    default_limit = 25
    max_limit = 100

    def get_limit(self, request: Request) -> int | None:
        self._check(request, "limit", minimum=1)
        return super().get_limit(request)

    def get_offset(self, request: Request) -> int:
        self._check(request, "offset", minimum=0)
        return super().get_offset(request)

    def _check(self, request: Request, name: str, *, minimum: int) -> None:
        value = request.query_params.get(name, str(minimum))
        if not value.isdecimal() or not minimum <= int(value[:20]) < 2**63:
            raise ValidationError({name: [f"A whole number, at least {minimum}."]})
