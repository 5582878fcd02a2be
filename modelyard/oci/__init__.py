"""Registries: the client of the OCI distribution API. https://github.com/opencontainers/distribution-spec/blob/main/spec.md

Written by hand on urllib3, because no library was found that streams a blob whose digest is not known yet with its size told, goes on
inside an interrupted upload, and shows where a token ended: those for Python read a file (oras), want the digest first (dxf), or
speak to one vendor's registry.
"""
