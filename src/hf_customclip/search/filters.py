"""Conditions on metadata, as the SQL that LanceDB filters by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import pyarrow as pa

Filter: TypeAlias = Mapping[str, Any] | str
HIDDEN_COLUMNS = ("state", "thumbnail", "vector")


def sql_filter(condition: Filter | None, schema: pa.Schema) -> Any:
    """A condition as SQL; None for none.

    Args:
        condition: `{"column": value}`, with a list for any of several values and None for no value, all of which
            have to hold; or SQL (`"year > 2020 AND brand LIKE 'a%'"`), which is passed on.

    Raises:
        ValueError: it names a column that there is not.
    """
    if condition is None or isinstance(condition, str):
        return condition
    parts = []
    for name, value in condition.items():
        check_column(name, schema)
        values = list(value) if isinstance(value, (list, tuple, set)) else [value]
        parts.append(sql_condition(name, "=", values))
    return " AND ".join(parts) or None


def check_column(name: str, schema: pa.Schema) -> None:
    """Raise ValueError where a column is not there to filter by."""
    names = [each for each in schema.names if each not in HIDDEN_COLUMNS]
    if name not in names:
        raise ValueError(f"There is no column {name!r} to filter by, only {', '.join(names)}.")


def sql_condition(column: str, sign: str, values: list[Any]) -> str:
    """One condition: `=` any of the values, `!=` none of them, or `<`, `<=`, `>`, `>=` the only one."""
    quoted = f"`{column}`"
    if sign not in ("=", "!="):
        return f"{quoted} {sign} {_literal(values[0])}"
    known = ", ".join(_literal(value) for value in values if value is not None)
    parts = [f"{quoted} IN ({known})"] if known else []
    if None in values:
        parts.append(f"{quoted} IS NULL")
    either = f"({' OR '.join(parts)})" if parts else "false"
    return either if sign == "=" else f"NOT {either}"


def _literal(value: Any) -> str:
    from lancedb.expr import lit

    return lit(pa.scalar(value).as_py()).to_sql()  # through Arrow, as NumPy's numbers are values too
