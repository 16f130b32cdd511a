"""Schemas of the document, and the way from each to the next: every file that was ever released loads for ever.

A migration is a pure function of the JSON document. To change the schema, add one here and a golden file to the tests.
"""

from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]


def _with_metric_and_serial(fields: Fields) -> Fields:
    """Schema 2: a file knows how good its weights are, and which save of its folder it was."""
    return {**fields, "metric": None, "serial": 0}


# by the schema that it reads
MIGRATIONS: dict[int, Callable[[Fields], Fields]] = {1: _with_metric_and_serial}
SCHEMA = 1 + len(MIGRATIONS)


def is_known(schema: Any) -> bool:
    """Is this the number of a schema so far?"""
    return type(schema) is int and 1 <= schema <= SCHEMA


def migrate(fields: Fields) -> Fields:
    """The document in the newest schema; `fields` stays as it is.

    >>> migrate({"schema": 1, "seed": 7})
    {'schema': 2, 'seed': 7, 'metric': None, 'serial': 0}
    """
    while fields["schema"] in MIGRATIONS:
        fields = {**MIGRATIONS[fields["schema"]](fields), "schema": fields["schema"] + 1}
    return fields
