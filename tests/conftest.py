"""The order of the files, which `make test` deals out to its processes."""

from collections import Counter

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those with slow tests first, then those with many: coming last, a long one runs alone."""
    if not hasattr(config, "workerinput"):
        return  # one process, in the usual order
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -count[item.path]))
