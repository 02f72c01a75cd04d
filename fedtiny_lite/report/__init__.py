"""Records compared: tables of runs, differences seed by seed, tables for notebooks. No torch."""
