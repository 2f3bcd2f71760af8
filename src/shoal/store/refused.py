"""What an object store that refuses, or does not answer, says to a person.

The libraries that reach object stores tell what the service answered in their text; secrets are
not in it, and only its first line is shown.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from shoal.errors import ShoalError, TableError, Unavailable
from shoal.store.url import is_url

__all__ = ["refused", "store_error"]

_MISSING = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_EXPIRED = re.compile(
    r"ExpiredToken|TokenRefreshRequired|token (?:has|is) expired|AuthenticationFailed.{0,80}expir"
)
_DENIED = re.compile(
    r"\b40[13] (?:Forbidden|Unauthorized)|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken"
    r"|AccessDenied|AuthorizationFailure|AuthenticationFailed|AuthorizationPermissionMismatch"
    r"|InvalidAuthenticationInfo|invalid_client|invalid_grant"
)
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|metadata\.google\.internal|CredentialsNotLoaded|[Mm]issing ?[Cc]redential"
    r"|no credentials|Account must be specified|MissingAccount|NoCredentials"
)
_SLOW = re.compile(r"SlowDown|TooManyRequests|ServerBusy|\b429\b|\b503\b|OperationTimedOut")
_SILENT = re.compile(
    r"error sending request|[Cc]onnection refused|dns error|error trying to connect|timed? ?out"
    r"|connection closed|HTTP error|\b50[0234]\b"
)
_ANY = re.compile(
    r"Generic (?:S3|MicrosoftAzure|GCS) error|Error performing|object ?store", re.IGNORECASE
)

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or AZURE_CLIENT_ID, "
    "AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "az": "AZURE_STORAGE_ENDPOINT", "gs": "GOOGLE_BASE_URL"}


def store_error(error: BaseException, url: str) -> ShoalError | None:
    """The error for a person, where an error came from an object store; else None.

    Args:
        error: What was raised, with its causes.
        url: Where something was to be read or written.
    """
    if not is_url(url) or isinstance(error, ShoalError):
        return None
    said = " ".join(_texts(error))
    if not (_ANY.search(said) or _MISSING.search(said) or _DENIED.search(said)):
        return None
    kind, where = _kind(url), _bucket(url)
    if _MISSING.search(said):
        return TableError(
            f"There is no {'container' if kind == 'az' else 'bucket'} for '{url}'. Nothing was "
            "written.",
            hint=f"Create it: {_make(kind, url)}; or correct 'storage'.",
        )
    if _NO_CREDENTIALS.search(said):
        return TableError(
            f"There are no credentials for '{where}' in the environment.",
            hint=f"Set {_KEYS[kind]}, then run again.",
        )
    if _EXPIRED.search(said) or _DENIED.search(said):
        what = "have expired" if _EXPIRED.search(said) else "are wrong or lack the right"
        return TableError(
            f"'{where}' refused the credentials of the environment: they {what}. Nothing was "
            "committed.",
            hint=f"Renew or correct {_KEYS[kind]}, then check: {_look(kind, url)}",
        )
    if _SLOW.search(said):
        return Unavailable(
            f"'{where}' asked to slow down, also after several tries. Nothing was lost.",
            hint="Wait a moment, then run again.",
        )
    if _SILENT.search(said):
        return Unavailable(
            f"'{where}' does not answer ({_first(said)}). Nothing was lost.",
            hint=f"Check the network, the name, and {_ENDPOINTS[kind]} if it is set; then run "
            "again.",
        )
    return TableError(f"'{where}' cannot be used: {_first(said)}.")


@contextlib.contextmanager
def refused(url: str) -> Iterator[None]:
    """Raises what `store_error` says instead of an object store's own error."""
    try:
        yield
    except FileNotFoundError as error:  # also how a missing bucket looks to a single read
        if _MISSING.search(str(error)) and (told := store_error(error, url)):
            raise told from None
        raise
    except FileExistsError:
        raise
    except Exception as error:
        if told := store_error(error, url):
            raise told from None
        raise


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _first(said: str) -> str:
    """The first line of a text, without the query of a URL, which may be signed."""
    line = said.strip().splitlines()[0].split("<?xml")[0].strip()
    return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", line)[:300].rstrip(" .:-")


def _kind(url: str) -> str:
    scheme = url.partition("://")[0]
    return "s3" if scheme.startswith("s3") else "gs" if scheme == "gs" else "az"


def _bucket(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _names(url: str) -> tuple[str, str]:
    """Container and account."""
    parts = urlsplit(url)
    container = parts.username or parts.netloc
    account = (parts.hostname or "").partition(".")[0] if parts.username else "ACCOUNT"
    return container, account


def _make(kind: str, url: str) -> str:
    container, account = _names(url)
    return {
        "s3": f"aws s3 mb s3://{container}",
        "gs": f"gcloud storage buckets create gs://{container}",
        "az": f"az storage container create --account-name {account} --name {container}",
    }[kind]


def _look(kind: str, url: str) -> str:
    container, account = _names(url)
    return {
        "s3": f"aws s3 ls s3://{container}",
        "gs": f"gcloud storage ls gs://{container}",
        "az": f"az storage blob list --account-name {account} --container-name {container} "
        "--num-results 1",
    }[kind]
