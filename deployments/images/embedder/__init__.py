"""A small inference server for sentence models. See server.py; not imported here, but run in its own image."""
