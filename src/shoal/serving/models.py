"""Which versions a server answers for, and how they follow the registry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.errors import ShoalError, TrackingError, nearest
from shoal.serving.opening import Opening
from shoal.serving.served import ServedModel

if TYPE_CHECKING:
    from shoal.tracking import Pointers, Reading, Reference, Tracker

__all__ = ["ServedModels"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Name:
    """What is served under one name at one moment."""

    chosen: ServedModel
    aliases: Mapping[str, ServedModel] = field(default_factory=dict)
    versions: Mapping[int, ServedModel] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class ServedModels:
    """The models of one server, by name. Safe to use from many threads.

    What `load` made follows the registry: `refresh` opens what aliases point at now, and swaps it
    in between two requests. A request that holds a `ServedModel` keeps that version to its end.

    Args:
        models: One version of each name.

    Raises:
        TrackingError: There is no model, or two versions of one name.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._names: dict[str, _Name] = {}
        self._reading: Reading | None = None
        self._wanted: dict[str, list[Reference]] | None = {}
        self.failures = 0
        self._opening = Opening()
        for model in models:
            if model.name in self._names:
                raise TrackingError(
                    f"Two versions of '{model.name}' are to be served: "
                    f"{self._names[model.name].chosen.version} and {model.version}.",
                    hint="Serve each from its own port.",
                )
            self._names[model.name] = _Name(chosen=model, versions={model.version: model})
        if not self._names:
            raise _nothing()

    @classmethod
    def load(
        cls,
        tracker: Tracker,
        refs: Iterable[str] | None = None,
        *,
        opening: Opening | None = None,
    ) -> ServedModels:
        """Opens versions from the registry.

        Each name answers with the version of its first reference, and with those that its aliases
        point at where a request asks for one.

        Args:
            tracker: Where the models are registered.
            refs: ``delay``, ``delay@champion``, ``delay/3``, ...; None means all models that Shoal
                registered: a registry may hold others' models, too.
            opening: How versions are opened.

        Raises:
            TrackingError: A model, alias or version does not exist.
        """
        from shoal.tracking import Reading, Reference

        self = cls.__new__(cls)
        self._names, self._reading, self.failures = {}, Reading(tracker), 0
        self._wanted = None
        self._opening = opening or Opening()
        if refs is not None:
            self._wanted = {}
            for text in refs:
                ref = Reference.parse(text)
                self._wanted.setdefault(ref.name, []).append(ref)
                self._reading.number(ref)  # says what is wrong with it
        for name, pointers in self._pointers().items():
            self._names[name] = self._open(pointers)
        if not self._names:
            raise _nothing()
        return self

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([name.chosen for name in self._names.values()])

    def __len__(self) -> int:
        return len(self._names)

    @property
    def state(self) -> Mapping[str, object]:
        """What is served now: another object after each change."""
        return self._names

    def get(
        self, name: str, *, alias: str | None = None, version: int | None = None
    ) -> ServedModel | None:
        """The version that answers for a name now, or None.

        Args:
            name: The model.
            alias: The version that this alias points at.
            version: This version, where it is served.
        """
        found = self._names.get(name)
        if found is None:
            return None
        if version is not None:
            return found.versions.get(version)
        return found.chosen if alias is None else found.aliases.get(alias)

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version of a served model."""
        return {alias: model.version for alias, model in self._names[name].aliases.items()}

    def versions(self, name: str) -> list[int]:
        """The served versions of a model, sorted."""
        return sorted(self._names[name].versions)

    def tags(self, name: str) -> Mapping[str, str]:
        """The registered model's tags."""
        return self._names[name].tags

    def nearest(self, name: str) -> str | None:
        """The served name most like ``name``."""
        return nearest(name, self._names)

    def refresh(self, agree: Callable[[str], None] | None = None) -> list[str]:
        """Follows the registry; what cannot be opened leaves its name as it was.

        Args:
            agree: Called with what is to be taken up, after it was opened; what is new is served
                when it returns.

        Returns:
            What changed, such as ``delay: version 3 -> 4``.
        """
        if self._reading is None:
            return []
        changes = []
        names: dict[str, _Name] = {}
        for name, pointers in self._pointers().items():
            before = self._names.get(name)
            try:
                names[name] = now = self._open(pointers)
            except ShoalError as error:
                self.failures += 1
                _log.error("'%s' stays as it was: %s", name, error.message)
                if before is not None:
                    names[name] = before
                continue
            if before is None:
                changes.append(f"{name}: version {now.chosen.version}, new")
            elif before.chosen.version != now.chosen.version:
                changes.append(f"{name}: version {before.chosen.version} -> {now.chosen.version}")
        names = {**{n: v for n, v in self._names.items() if n not in names}, **names}
        if names != self._names:
            if agree is not None:
                agree(_said(names))
            # One assignment: a request sees all of the old state or all of the new.
            self._names = names
        return changes

    @contextlib.contextmanager
    def following(
        self,
        seconds: float = 0.5,
        *,
        changed: Callable[[str], None] = _log.info,
        also: Iterable[Callable[[], object]] = (),
        agree: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Refreshes in a thread while open.

        Args:
            seconds: Pause between two looks at the registry.
            changed: Called with each change.
            also: What else to refresh then.
            agree: See `refresh`.
        """
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(seconds):
                try:
                    for change in self.refresh(agree):
                        changed(change)
                    for refresh in also:
                        refresh()
                except Exception as error:  # noqa: BLE001 - the registry may be away for a while
                    self.failures += 1
                    _log.error("What is served could not be refreshed: %s", error)

        thread = threading.Thread(target=follow, name="shoal-following", daemon=True)
        if self._reading is not None:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self._reading is not None:
                thread.join()

    def _pointers(self) -> dict[str, Pointers]:
        assert self._reading is not None
        if self._wanted is None:
            # A training that failed at the last step leaves a name without versions.
            found = [p for p in self._reading.pointers() if p.own and p.newest is not None]
        else:
            found = [p for name in self._wanted for p in self._reading.pointers(name)]
        return {pointers.name: pointers for pointers in found}

    def _open(self, pointers: Pointers) -> _Name:
        refs: Sequence[Reference] = (self._wanted or {}).get(pointers.name, ())
        numbers = [_number(ref.alias, ref.version, pointers) for ref in refs]
        chosen = numbers[0] if numbers else _number(None, None, pointers)
        opened = self._names[pointers.name].versions if pointers.name in self._names else {}
        wanted = {chosen, *numbers, *pointers.aliases.values()}
        versions = {n: opened.get(n) or self._version(pointers.name, n) for n in sorted(wanted)}
        return _Name(
            chosen=versions[chosen],
            aliases={alias: versions[n] for alias, n in pointers.aliases.items()},
            versions=versions,
            tags=pointers.tags,
        )

    def _version(self, name: str, number: int) -> ServedModel:
        assert self._reading is not None
        return self._opening.open(name, number, self._reading.version(name, number))


def _number(alias: str | None, version: int | None, pointers: Pointers) -> int:
    if version is not None:
        return version
    found = pointers.aliases.get(alias or "champion")
    if found is None and alias is None:
        found = pointers.newest
    if found is None:
        raise TrackingError(f"Model '{pointers.name}' has no alias '{alias}' any more.")
    return found


def _said(names: Mapping[str, _Name]) -> str:
    """A short name of a state; processes that see the same one say the same."""
    state = {
        name: [found.chosen.version, {a: m.version for a, m in found.aliases.items()}, found.tags]
        for name, found in names.items()
    }
    text = json.dumps(state, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


def _nothing() -> TrackingError:
    return TrackingError("There is no model to serve.", hint="Train one first: shoal run")
