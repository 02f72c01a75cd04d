"""Figures from records and plain data: each function returns a matplotlib Figure; none shows or saves one."""
