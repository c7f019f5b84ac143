"""The only package that writes records. Every move is one conditional UPDATE, with its conditions on the updated row.

Lock order: record, then shards.
"""
