"""Records compared: groups, differences, tables."""
