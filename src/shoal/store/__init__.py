"""Bytes under names, on a disk or in an object store: *a store is a folder that cannot rename*.

Local folders, ``s3://``, ``abfss://`` and ``az://``, and ``gs://`` meet one `Store` protocol. What
object stores do well is what it asks for: whole objects, listings by prefix, copies that stay in
the store, and writes that fail if the name is taken. Credentials come from the environment, by the
same variables (``AWS_*``, ``AZURE_*``, ``GOOGLE_*``) that the engine and delta-rs read.
"""

from shoal.store.base import Store, Stored, Tag
from shoal.store.local import LocalStore
from shoal.store.opening import hand_on, open_file, open_store, parquet_footer, write_parquet
from shoal.store.refused import refused, store_error
from shoal.store.url import SCHEMES, is_url, parent_of, path_in, storage_url

__all__ = [
    "SCHEMES",
    "LocalStore",
    "Store",
    "Stored",
    "Tag",
    "hand_on",
    "is_url",
    "open_file",
    "open_store",
    "parent_of",
    "parquet_footer",
    "path_in",
    "refused",
    "storage_url",
    "store_error",
    "write_parquet",
]
