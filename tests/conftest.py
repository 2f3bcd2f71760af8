"""Puts this folder on the import path, as pytest does for every folder with a conftest.py.

Tests import ``fleets`` (small real fleets) and ``servers`` (talking to the scoring server) from it.
"""
