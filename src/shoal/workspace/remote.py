"""A fleet that a running server holds, for batch scoring."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from shoal.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.serving import Client

__all__ = ["RemoteFleet", "served_version"]

_ROWS = 2_000
_AT_ONCE = 4


def served_version(found: Mapping[str, Any], ref: str) -> int:
    """The number of the version that a reference means on a server.

    Args:
        found: The model's entry in the server's list.
        ref: ``delay``, ``delay@challenger`` or ``delay/3``.

    Raises:
        RequestError: The server does not serve it.
    """
    name, _, number = ref.partition("/")
    alias = name.partition("@")[2]
    version = int(number) if number.isdigit() else found["aliases"].get(alias)
    if not number and not alias:
        version = found["version"]
    if version not in found["versions"]:
        raise RequestError(f"The server does not serve '{ref}'; versions: {found['versions']}.")
    return int(version)


class RemoteFleet:
    """Predicts one version as a `Fleet` does, by requests of a few thousand rows.

    Args:
        client: Asks that version of the model.
        found: The model's entry in the server's list.
    """

    def __init__(self, client: Client, found: Mapping[str, Any]) -> None:
        self._client = client
        features = [SimpleNamespace(name=name) for name in found["inputs"]]
        self.header = SimpleNamespace(by=(), features=features, interval=found["interval"])

    def predict(self, rows: pa.Table, *, explain: bool, interval: bool) -> pa.Table:
        """See `Fleet.predict`.

        Raises:
            RequestError: The server refused a request.
            Unavailable: It does not answer, after several attempts.
        """
        import pyarrow as pa

        assert explain
        asked = rows.select([field.name for field in self.header.features])
        parts = [asked.slice(at, _ROWS) for at in range(0, asked.num_rows, _ROWS)]
        with self._client, ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = pool.map(lambda p: self._client.explain(p, interval=interval), parts)
            told = [row for answer in answers for row in answer]
        if interval:
            told = [row | row["prediction"] for row in told]
        names = ["prediction", *(["prediction_lower", "prediction_upper"] if interval else [])]
        values = {name: pa.array([row[name] for row in told]) for name in names}
        # Without any value there is no type to see.
        columns = {n: v.cast(pa.float64()) if v.type == pa.null() else v for n, v in values.items()}
        columns["model_used"] = pa.array([row["model_used"] for row in told], pa.string())
        columns["fallback"] = pa.array([row["fallback"] for row in told], pa.bool_())
        return pa.table(columns)
