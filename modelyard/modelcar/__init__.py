"""The modelcar builder: a model's files from their source into an image in a registry, in one pass and without a disk.

Needs neither Prefect nor Kubernetes: the same code runs in a flow and beside the data.
"""
