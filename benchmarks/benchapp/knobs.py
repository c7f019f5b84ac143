"""Values that the benchmark passes to its migrations."""

span: tuple[int, int] | None = None
"""The ids to work at, exclusive and inclusive; None: all."""

seconds = 0.05
"""How long the slow operations take for each row."""

loops = 0
"""How many turns of a loop the operation that computes makes."""


def chosen(queryset):
    """Return the rows of the current run."""
    return queryset if span is None else queryset.filter(pk__gt=span[0], pk__lte=span[1])
