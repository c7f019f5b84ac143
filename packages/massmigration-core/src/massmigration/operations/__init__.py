"""Ready-made operations on data, for `OperationsMigration` and for Django's own migrations."""

from __future__ import annotations

from massmigration.operations.base import DataOperation
from massmigration.operations.fields import AddFieldData, CopyFieldData, RemoveFieldData
from massmigration.operations.migration import OperationsMigration
from massmigration.operations.models import CopyModelData, CopyModelDataToNamespace, DeleteModelData
from massmigration.operations.special import Entity, MapFunctionOnEntities, MapFunctionOnObjects

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
