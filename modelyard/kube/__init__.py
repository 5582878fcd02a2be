"""Applying, waiting and diagnosing: the only code that writes to a cluster."""
