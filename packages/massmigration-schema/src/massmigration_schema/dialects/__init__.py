"""The differences between databases: catalogs, statements that change tables, and statements that copy rows."""
