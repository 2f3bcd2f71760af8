"""Storage URLs: which schemes there are, and what a well-formed one is."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from shoal.errors import ProjectError, nearest

__all__ = ["SCHEMES", "is_url", "parent_of", "path_in", "storage_url"]

# `s3a` is what Apache Spark calls the same store.
SCHEMES = ("s3", "s3a", "abfss", "abfs", "az", "gs")
_KIN = {"wasb": "abfss", "wasbs": "abfss", "azure": "az", "adl": "abfss", "gcs": "gs", "s3n": "s3"}
_FORMS = {
    "s3": "s3://bucket/prefix",
    "s3a": "s3a://bucket/prefix",
    "abfss": "abfss://container@account.dfs.core.windows.net/path",
    "abfs": "abfs://container@account.dfs.core.windows.net/path",
    "az": "az://container/path",
    "gs": "gs://bucket/prefix",
}


def is_url(path: object) -> bool:
    """Whether a path is in an object store."""
    scheme, mark, _ = str(path).partition("://")
    return bool(mark) and scheme.lower() in SCHEMES


def path_in(root: str, *names: str) -> str:
    """A path or URL below another one."""
    return "/".join([root.rstrip("/"), *(name.strip("/") for name in names if name)])


def parent_of(path: str) -> str:
    """The folder above a path or URL."""
    return path.rstrip("/").rpartition("/")[0]


def storage_url(written: str) -> str:
    """A storage URL in its plain form: lower-case scheme, no slash at the end.

    Raises:
        ProjectError: The scheme is unknown (the message has the nearest), the bucket or container
            is missing, or the URL holds credentials, a query or characters that readers differ on.
    """
    scheme, _, rest = written.strip().partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        close = _KIN.get(scheme) or nearest(scheme, SCHEMES)
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise ProjectError(
            f"The storage '{_safe(written)}' has the scheme '{scheme}'; Shoal knows folders and "
            f"{known}.",
            hint=f"Did you mean {_FORMS[close]}?" if close else f"Write {_FORMS['s3']}.",
        )
    parts = urlsplit(f"{scheme}://{rest}")
    if parts.password or (parts.username and scheme in {"s3", "s3a", "gs", "az"}):
        raise ProjectError(
            f"The storage '{_safe(written)}' holds credentials, which do not belong in a file.",
            hint="Leave them out of the URL and set them in the environment (AWS_ACCESS_KEY_ID, "
            "AZURE_STORAGE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS).",
        )
    if scheme in {"abfss", "abfs"} and not (parts.username and parts.hostname):
        raise ProjectError(
            f"The storage '{written}' does not name a container and an account.",
            hint=f"Write {_FORMS[scheme]}, or az://container/path with AZURE_STORAGE_ACCOUNT_NAME "
            "set.",
        )
    if not parts.netloc:
        raise ProjectError(
            f"The storage '{written}' names no bucket.", hint=f"Write {_FORMS[scheme]}."
        )
    if odd := re.search(r"[^A-Za-z0-9_./:+&=,@~-]|//|(?:^|/)\.\.?(?:/|$)", rest.rstrip("/")):
        raise ProjectError(
            f"The storage '{_safe(written)}' has '{odd.group()}' in its path, with which readers "
            "cannot agree on the tables' files.",
            hint="Use only plain letters, digits, '.', '_', '-' and single slashes in it.",
        )
    return f"{scheme}://{rest.rstrip('/')}"


def _safe(written: str) -> str:
    """A URL as it may be shown: without what could be a secret."""
    return re.sub(r"\?.*", "?...", re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:...@", written))
