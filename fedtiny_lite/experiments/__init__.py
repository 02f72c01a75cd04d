"""Named plans, sweeps, and the notebooks run headlessly."""
