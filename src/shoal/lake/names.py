"""Names of tables, and the folders that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shoal.errors import TableError

__all__ = ["TableName"]

# A name becomes a folder, so it must not hold a separator, a drive or a parent reference.
_WRITTEN = re.compile(r"(?:`[^`]*`|[^.`]+)(?:\.(?:`[^`]*`|[^.`]+))*")
_PART = re.compile(r"[^\W\d][\w$-]*|_[\w$-]+|\d[\w$-]*")


@dataclass(frozen=True, kw_only=True, order=True)
class TableName:
    """A two-part table name, ``schema.table``.

    Args:
        schema: For example ``silver``.
        table: For example ``flights``.
    """

    schema: str
    table: str

    @classmethod
    def parse(cls, text: str, *, default_schema: str, catalog: str | None = None) -> TableName:
        """Reads ``table``, ``schema.table`` or ``catalog.schema.table``; backquotes are allowed.

        Args:
            text: The name as written in code or SQL. Names are case-insensitive, as in Spark.
            default_schema: The schema of a name that gives none.
            catalog: The only catalog accepted besides ``spark_catalog``.

        Raises:
            TableError: The name has more than three parts, an unknown catalog, or a character
                that cannot stand in a folder's name.
        """
        whole = _WRITTEN.fullmatch(text.strip())
        parts = [part.strip("`") for part in re.findall(r"`[^`]*`|[^.`]+", text.strip())]
        if not whole or len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
            raise TableError(
                f"'{text}' is not a table name.",
                hint="Write schema.table with letters, digits, '_', '$' or '-', "
                "for example silver.flights.",
            )
        if len(parts) == 3 and parts[0] not in {catalog, "spark_catalog"}:
            known = catalog or "spark_catalog"
            raise TableError(
                f"'{text}' names the catalog '{parts[0]}'; this project's catalog is '{known}'.",
                hint="Leave the catalog out, or set 'catalog' in spark-pipeline.yml.",
            )
        schema = parts[-2] if len(parts) > 1 else default_schema
        return cls(schema=schema.lower(), table=parts[-1].lower())

    @property
    def path(self) -> str | None:
        """The folder or URL of a table that is named by it, ``delta.`/folder` ``; else None."""
        named = self.table.startswith("/") or "://" in self.table
        return self.table if self.schema == "delta" and named else None

    def __str__(self) -> str:
        return f"delta.`{self.table}`" if self.path else f"{self.schema}.{self.table}"
