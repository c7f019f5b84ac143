"""Online schema changes of large live tables, from ordinary Django migrations."""

from massmigration_schema.migration import OnlineMigration
from massmigration_schema.options import Online

__all__ = ["Online", "OnlineMigration"]
