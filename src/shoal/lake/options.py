"""What delta-rs is told of the store that a table is in."""

from __future__ import annotations

import os

from shoal.store import is_url

__all__ = ["delta_options"]


def delta_options(path: str) -> dict[str, str] | None:
    """Options for delta-rs; None for a folder. Credentials it finds in the environment by itself.

    A commit is a write that fails if its version exists. S3 has had it since 2024 and calls it a
    conditional put; delta-rs would otherwise want a lock table for it.

    Args:
        path: A table's folder or URL.
    """
    if not is_url(path):
        return None
    if path.startswith("s3"):
        return {"aws_conditional_put": os.environ.get("AWS_CONDITIONAL_PUT", "etag")}
    return {}
