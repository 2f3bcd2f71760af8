"""API tokens: who may read, score and administer.

A token is 32 random bytes, shown once. The file holds its SHA-256 only, which is enough for a
secret that no one can guess; it needs no slow hash, as passwords do.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ProjectError
from shoal.serving.answers import Refused

__all__ = ["SCOPES", "Tokens", "new_token"]

SCOPES = ("read", "score", "admin")
_PREFIX = "shoal_"


@dataclass(frozen=True, kw_only=True)
class _Token:
    name: str
    digest: bytes
    scopes: frozenset[str]


class Tokens:
    """The tokens that a server takes.

    Args:
        path: A file that `new_token` wrote; it is read again when it changes.

    Raises:
        ProjectError: It cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int] | None = None
        self._tokens: tuple[_Token, ...] = ()
        self._load()

    def _load(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            self._tokens = tuple(
                _Token(
                    name=item["name"],
                    digest=bytes.fromhex(item["sha256"]),
                    scopes=frozenset(item["scopes"]),
                )
                for item in json.loads(self._path.read_text())
            )
            self._stamp = stamp
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProjectError(
                f"The tokens in {self._path} cannot be read: {error}.",
                hint="Make one: shoal token new NAME --file " + str(self._path),
            ) from error

    def check(self, header: str | None, scope: str) -> str:
        """The name of the token in an ``Authorization`` header.

        Args:
            header: ``Bearer shoal_...``.
            scope: What the request needs.

        Raises:
            Refused: 401 without a known token, 403 with one that lacks the scope.
        """
        try:
            self._load()
        except ProjectError:  # half-written: those known before still hold
            if self._stamp is None:
                raise
        kind, _, given = (header or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "replace")).digest()
        # All are compared, each in constant time: how long it takes tells nothing.
        known = [t for t in self._tokens if hmac.compare_digest(t.digest, digest)]
        if kind.lower() != "bearer" or not known:
            raise Refused(
                401,
                "This server wants a token: send the header 'Authorization: Bearer TOKEN'.",
                {"www-authenticate": "Bearer"},
            )
        if not known[0].scopes & {scope, "admin"}:
            raise Refused(403, f"The token '{known[0].name}' may not {scope}.")
        return known[0].name


def new_token(path: str | Path, name: str, scopes: Collection[str]) -> str:
    """Makes a token, and adds its hash to a file that only its owner may read.

    Args:
        path: The file; made when missing.
        name: Whose token it is; an earlier one of that name is replaced.
        scopes: Of ``read``, ``score`` and ``admin``.

    Returns:
        The token. It is stored nowhere.

    Raises:
        ProjectError: A scope is unknown, or the file cannot be written.
    """
    path = Path(path)
    wrong = sorted(set(scopes) - set(SCOPES))
    if wrong or not scopes:
        raise ProjectError(
            f"There is no scope '{wrong[0]}'." if wrong else "A token needs a scope.",
            hint=f"Scopes are {', '.join(SCOPES)}.",
        )
    token = _PREFIX + secrets.token_urlsafe(32)
    entry = {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    try:
        before = json.loads(path.read_text()) if path.exists() else []
        kept = [item for item in before if item["name"] != name]
        content = json.dumps([*kept, entry | {"scopes": sorted(scopes)}], indent=1)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(content)
        part.replace(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"The token file {path} cannot be written: {error}.") from error
    return token
