"""Puts this folder on the import path, as pytest does for every folder with a conftest.py.

Tests import ``fleets`` (small real fleets) and ``servers`` (talking to the scoring server) from it.
"""

import sys

if not hasattr(main := sys.modules["__main__"], "__file__"):
    # pyspark takes a main module without a file, such as that of a pytest-xdist worker, for a
    # doctest run, and leaves the process.
    main.__file__ = __file__
