"""Reading a request's body, within limits of size and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from shoal.serving.answers import Refused
from shoal.serving.protocol import Columns, read_csv, read_json

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["body_of", "reader"]

_DISCARDED = 16  # a body may be so many times too large before the connection is cut

Reader = Callable[[bytes, Mapping[str, str]], Columns]


async def body_of(request: Request, *, largest: int, seconds: float) -> bytes:
    """Reads the body, keeping no more than the limit.

    What is too large is read on and thrown away, up to a point: most clients send everything
    before they read an answer, and would only see a broken connection.

    Args:
        request: The request.
        largest: Largest body, in bytes.
        seconds: How long it may take to arrive.

    Raises:
        Refused: 400, 408, 413 or 415.
    """
    import anyio
    from starlette.requests import ClientDisconnect

    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "The body is compressed; the server reads plain bodies only.")

    parts: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(seconds):
            async for part in request.stream():
                size += len(part)
                if size <= largest:
                    parts.append(part)
                elif size > _DISCARDED * largest:
                    break
    except ClientDisconnect:
        raise Refused(400, "The client went away.") from None
    except TimeoutError:
        raise Refused(408, f"The body did not arrive within {seconds:g} seconds.") from None
    if size > largest:
        raise Refused(413, f"The body is larger than {largest} bytes; send fewer rows per request.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def reader(header: str | None) -> Reader:
    """What reads bodies of a content type, with the parameters that MLflow allows.

    Raises:
        Refused: 415.
    """
    kind, *pairs = [part.strip() for part in (header or "").split(";")]
    parameters = {
        name.strip().lower(): value.strip().strip('"')
        for name, _, value in (pair.partition("=") for pair in pairs if pair)
    }
    if parameters.pop("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Refused(415, "The server only reads UTF-8.")
    if parameters:
        names = ", ".join(sorted(parameters))[:100]
        raise Refused(415, f"Unrecognized content type parameters: {names}.")
    if kind.lower() == "application/json":
        return lambda body, inputs: read_json(body, list(inputs))
    if kind.lower() == "text/csv":
        return read_csv
    raise Refused(
        415,
        f"The content type is {kind[:100] or 'missing'}; expected application/json or text/csv.",
    )
