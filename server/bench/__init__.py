"""``qoq bench``: one module for each thing that it measures."""
