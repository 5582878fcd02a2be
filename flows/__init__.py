"""Prefect flows, one file a procedure."""
