"""What an engine does otherwise than Apache Spark, or not at all, and who must change it.

``NOTYET`` waits for the engine, ``NOTIMPL`` for Shoal. Each is an expected failure of
``test_engines.py``, so one that is mended is noticed; ``docs/engines.md`` has the same list.
"""

_SAIL = {
    "describe history": "Sail has no DESCRIBE HISTORY; shoal history reads the log",
    "having an aggregate of what an alias hides": "Sail takes the alias where Spark takes the column",
    "interpolate": "Sail lacks pandas-on-Spark's null_index, ewm and mode functions",
    "optimize": "Sail has no OPTIMIZE; shoal optimize does it",
    "txn app id": "Sail ignores txnAppId and txnVersion; Shoal's commits do not need them",
}
NOTYET: dict[str, dict[str, str]] = {
    "embedded": _SAIL,
    "sail-cluster": _SAIL,
    "spark": {
        "arrow types are cast": "Spark wants mapInArrow's rows in exactly the declared types",
    },
}
NOTIMPL: dict[str, dict[str, str]] = {"embedded": {}, "sail-cluster": {}, "spark": {}}
