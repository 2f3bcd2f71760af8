"""Which version a request goes to: the champion, or a canary of it.

The rule is a tag of the registered model, so that it moves with the registry: every server that
follows it takes it up, and it needs no restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import TrackingError

__all__ = ["TAG", "Traffic"]

TAG = "shoal.traffic"
_BUCKETS = 10_000


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """How a model's traffic is shared with another version of it.

    Args:
        alias: The alias of the other version, such as ``challenger``.
        percent: Share of the requests that it answers, 0 to 100.
        segments: Keys of segments whose rows it answers, such as ``["UA","IAH"]`` as text.
        shadow: It answers nothing: it predicts the same rows after the answer, for the log.
    """

    alias: str
    percent: float = 0.0
    segments: Collection[str] = frozenset()
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise TrackingError(
                f"{self.percent:g} percent of the traffic cannot be; expected 0 to 100."
            )
        if not self.percent and not self.segments:
            raise TrackingError(
                "The other version would get nothing.",
                hint="Give it a share (--percent 10) or segments (--segment UA,IAH).",
            )

    def to_tag(self) -> str:
        """The tag's text."""
        fields: dict[str, Any] = {"alias": self.alias, "percent": self.percent}
        return json.dumps(fields | {"segments": sorted(self.segments), "shadow": self.shadow})

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Traffic | None:
        """The rule in a registered model's tags, if there is one that can be read."""
        try:
            content = json.loads(tags.get(TAG, ""))
            return cls(
                alias=str(content["alias"]),
                percent=float(content["percent"]),
                segments=frozenset(map(str, content["segments"])),
                shadow=bool(content["shadow"]),
            )
        except (ValueError, TypeError, KeyError, TrackingError):
            return None

    def takes(self, request: str) -> bool:
        """Whether the share takes this request: the same answer for the same id everywhere."""
        digest = hashlib.blake2b(request.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest) % _BUCKETS < self.percent * _BUCKETS / 100
