"""Signatures of modelcars, and what they vouch for; made and checked with a key alone, without any service.

Three statements about an image's digest, each a sigstore bundle beside the image in its registry: that it is signed (as `cosign sign`
makes it), which files it holds (OpenSSF model signing, as `model_signing` makes it), and what it was made from (SLSA provenance).
Bundles are written by hand on `cryptography`: the libraries for them sign by services or from directories, and bring twenty packages.
"""
