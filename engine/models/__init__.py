"""One decoder definition for every supported architecture."""
