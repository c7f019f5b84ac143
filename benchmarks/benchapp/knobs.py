"""What the benchmark tells its migrations."""

span: tuple[int, int] | None = None
"""The ids to work at, exclusive and inclusive; None: all."""

loops = 0
"""How many turns of a loop the operation that computes makes."""


def chosen(queryset):
    """The rows to work at."""
    return queryset if span is None else queryset.filter(pk__gt=span[0], pk__lte=span[1])
