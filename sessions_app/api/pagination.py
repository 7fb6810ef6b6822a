from rest_framework.pagination import LimitOffsetPagination


class Pages(LimitOffsetPagination):
    """`?limit=&offset=`, at most 100 rows a page."""

    default_limit = 25
    max_limit = 100
