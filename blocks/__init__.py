"""Prefect blocks: credentials and settings, and the clients made from them. A block knows no procedure."""
