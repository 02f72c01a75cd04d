"""Results to read without running anything: a report and a page per notebook, offline."""
