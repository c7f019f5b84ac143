"""Ready-made operations on data, for `OperationsMigration` and for Django's own migrations."""

from __future__ import annotations

from massmigration.operations.base import DataOperation
from massmigration.operations.copying import CopyModelData, CopyModelDataToNamespace
from massmigration.operations.deletion import DeleteModelData
from massmigration.operations.field_data import AddFieldData, CopyFieldData, RemoveFieldData
from massmigration.operations.mapping import Entity, MapFunctionOnEntities, MapFunctionOnObjects
from massmigration.operations.migration import OperationsMigration

__all__ = [
    "AddFieldData",
    "CopyFieldData",
    "CopyModelData",
    "CopyModelDataToNamespace",
    "DataOperation",
    "DeleteModelData",
    "Entity",
    "MapFunctionOnEntities",
    "MapFunctionOnObjects",
    "OperationsMigration",
    "RemoveFieldData",
]
