"""Exercises of the notebooks: they judge the reader's own function and name what is wrong with it."""
