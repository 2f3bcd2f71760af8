"""What scoring servers and the inference log tell: traffic, latency, errors."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shoal.errors import RequestError, Unavailable

if TYPE_CHECKING:
    from shoal.ui.desk import Desk

__all__ = ["LogFigures", "Servers", "Snapshot", "logged"]

_SECONDS = 1.5
_LONGEST = 4 << 20
_COUNTS = {"shoal_swap_failures", "shoal_log_waiting_rows", "shoal_log_dropped_rows"}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One look at a server's ``/metrics``.

    Args:
        url: The server.
        at: When, by a clock that only goes forward.
        requests: Answers by model, version and status.
        rows: Rows predicted by model, version and role.
        buckets: Requests by model that took at most so many seconds.
        versions: Served version by model and alias.
        counts: The log's waiting and lost rows, and failed swaps.
        rates: Requests a second by model since the look before.
    """

    url: str
    at: float
    requests: Mapping[tuple[str, str, str], float]
    rows: Mapping[tuple[str, str, str], float]
    buckets: Mapping[str, Mapping[float, float]]
    versions: Mapping[tuple[str, str], int]
    counts: Mapping[str, float]
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The served models."""
        return sorted({model for model, _ in self.versions})

    def answered(self, model: str) -> dict[str, float]:
        """How many requests of a model were answered by each status."""
        found: dict[str, float] = defaultdict(float)
        for (name, _, status), count in self.requests.items():
            if name == model:
                found[status] += count
        return dict(sorted(found.items()))

    def quantile(self, model: str, share: float) -> float | None:
        """Seconds within which a share of a model's requests were answered, as Prometheus tells."""
        bounds = sorted(self.buckets.get(model, {}).items())
        total = bounds[-1][1] if bounds else 0.0
        if not total:
            return None
        low, before = 0.0, 0.0
        for bound, count in bounds:
            if count >= share * total:
                if math.isinf(bound):
                    return low
                inside = count - before
                return low + (bound - low) * ((share * total - before) / inside if inside else 1.0)
            low, before = bound, count
        return low


class Servers:
    """The scoring servers that pages look at; only these are asked.

    Args:
        urls: Their addresses.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._urls: list[str] = []
        self._last: dict[str, Snapshot] = {}
        for url in urls:
            self.add(url)

    @property
    def urls(self) -> tuple[str, ...]:
        """Their addresses."""
        return tuple(self._urls)

    def add(self, url: str) -> str:
        """Adds a server.

        Raises:
            RequestError: It is no server's address.
        """
        text = url.strip().rstrip("/")
        parts = urlsplit(text)
        with contextlib.suppress(ValueError):
            good = parts.scheme in {"http", "https"} and parts.hostname and not parts.username
            if good and not parts.query and (parts.port is None or parts.port):
                with self._lock:
                    if text not in self._urls:
                        self._urls.append(text)
                return text
        raise RequestError(f"'{url}' is no server.", hint="Write it like http://127.0.0.1:5001")

    def look(self, url: str) -> Snapshot:
        """A server's figures now.

        Raises:
            RequestError: It is none of these servers.
            Unavailable: It does not answer.
        """
        if url not in self._urls:
            raise RequestError(f"'{url}' is none of the servers that are looked at.")
        found = _snapshot(url, _read(url, "/metrics"))
        with self._lock:
            before = self._last.get(url)
            if before is None or found.at - before.at > 1.0:
                self._last[url] = found
        if before is not None and found.at > before.at:
            rates = {}
            for model in found.models:
                now, then = (sum(s.answered(model).values()) for s in (found, before))
                rates[model] = max(now - then, 0.0) / (found.at - before.at)
            return _with_rates(found, rates)
        return found


def _with_rates(found: Snapshot, rates: Mapping[str, float]) -> Snapshot:
    from dataclasses import replace

    return replace(found, rates=rates)


def _read(url: str, path: str) -> str:
    headers = {}
    if token := os.environ.get("SHOAL_TOKEN"):
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url + path, headers=headers)  # noqa: S310  (http or https, see Servers.add)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            return str(answer.read(_LONGEST).decode("utf-8", "replace"))
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise Unavailable(
            f"{url} does not answer: {getattr(error, 'reason', error)}.",
            hint="Start it: shoal serve --log",
        ) from error


def _snapshot(url: str, text: str) -> Snapshot:
    from prometheus_client.parser import text_string_to_metric_families

    requests: dict[tuple[str, str, str], float] = {}
    rows: dict[tuple[str, str, str], float] = {}
    buckets: dict[str, dict[float, float]] = defaultdict(dict)
    versions: dict[tuple[str, str], int] = {}
    counts: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for name, of, value, *_ in family.samples:
                if name == "shoal_requests_total":
                    requests[of["model"], of["version"], of["status"]] = value
                elif name == "shoal_rows_total":
                    rows[of["model"], of["version"], of["role"]] = value
                elif name == "shoal_request_seconds_bucket":
                    buckets[of["model"]][float(of["le"])] = value
                elif name == "shoal_served_version":
                    versions[of["model"], of["alias"]] = int(value)
                elif name in _COUNTS:
                    counts[name] = value
    except (ValueError, KeyError) as error:
        raise Unavailable(f"{url} is no scoring server of Shoal.") from error
    if not versions:
        raise Unavailable(f"{url} is no scoring server of Shoal.")
    return Snapshot(
        url=url,
        at=time.monotonic(),
        requests=requests,
        rows=rows,
        buckets=buckets,
        versions=versions,
        counts=counts,
    )


@dataclass(frozen=True, kw_only=True)
class LogFigures:
    """What a model's inference log tells of its last day of traffic.

    Args:
        rows: Predictions.
        requests: Requests.
        until: When the last came.
        quantiles: Seconds by percentile.
        shares: Predictions by version and role.
        trend: Predictions in each of 48 equal parts of the time.
        null: Predictions that were none.
    """

    rows: int
    requests: int
    until: dt.datetime
    quantiles: Mapping[int, float]
    shares: tuple[tuple[int, str, int], ...]
    trend: tuple[int, ...]
    null: int


def logged(desk: Desk, model: str) -> LogFigures | None:
    """The last day in a model's inference log; None when nothing was logged."""
    table = desk.find(f"shoal.inferences_{model}")
    if table is None:
        return None

    def read() -> LogFigures | None:
        import numpy as np
        import polars as pl

        frame = table.scan()
        last = frame.select(pl.col("received_at").max()).collect().item()
        if last is None:
            return None
        names = ["request_id", "received_at", "seconds", "model_version", "role", "prediction"]
        day = frame.filter(pl.col("received_at") > last - dt.timedelta(days=1))
        rows = day.select(names).collect()
        each = rows.unique("request_id")["seconds"].to_numpy()
        moments = rows["received_at"].dt.epoch("ms").to_numpy()
        parts, _ = np.histogram(moments, 48)
        shares = rows.group_by("model_version", "role").len().sort("model_version", "role")
        return LogFigures(
            rows=rows.height,
            requests=len(each),
            until=last,
            quantiles={p: float(np.percentile(each, p)) for p in (50, 95, 99)},
            shares=tuple(shares.iter_rows()),
            trend=tuple(parts.tolist()),
            null=rows["prediction"].null_count(),
        )

    return desk.kept(("logged", model), read, table.name)


def body_of(values: Mapping[str, Any]) -> str:
    """A scoring request of one row, as MLflow's protocol writes it."""
    return json.dumps({"dataframe_records": [dict(values)], "params": {}})
