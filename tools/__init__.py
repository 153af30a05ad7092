"""Tools for the Makefile and the tests; no part of the package."""
