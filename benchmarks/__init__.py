"""Timings side by side, run by hand or with `make bench`: never part of the tests."""
