"""Interactive panels: skin over the plain calls of the package; no result depends on a slider."""
