"""The final model as a file."""
