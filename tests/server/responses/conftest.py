"""Shares the fixtures of the tests of tools."""

from ..tools.conftest import client_with

__all__ = ["client_with"]
