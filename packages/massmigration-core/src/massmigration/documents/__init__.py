"""Keeps records in databases of documents, where what SQL does in one statement is get, check and save."""
