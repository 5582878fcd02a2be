"""Credentials of registries from a Secret of the cluster, read when they are needed: what changes there need not be changed elsewhere.

No block holds a copy. A Job's own Secret does while the Job is there: a build's of the registries that it works with, a load's and a
repair's of the image's.
"""

import base64
import binascii

from modelyard.errors import ClusterRefused, RegistryDenied
from modelyard.kube.apply import patiently
from modelyard.kube.client import Kube
from modelyard.kube.resources import Manifest, ObjectRef
from modelyard.oci.access import Credentials, read_docker_config

#: https://kubernetes.io/docs/concepts/configuration/secret/#docker-config-secrets
TYPE = "kubernetes.io/dockerconfigjson"
_KEY = ".dockerconfigjson"


def read_registry_secret(kube: Kube, ref: ObjectRef) -> dict[str, Credentials]:
    """The credentials that the Secret ``ref`` holds, by host.

    Raises:
        RegistryDenied: it is not there, may not be read, or is no docker config. No message holds anything of its values.
        ClusterUnavailable: the API server does not answer.
    """
    try:
        live = patiently(lambda: kube.get("Secret", ref.name, ref.namespace))
    except ClusterRefused as error:
        rule = f"apiGroups [''], resources [secrets], verbs [get], resourceNames [{ref.name}]"
        raise RegistryDenied(f"{error}; to read this Secret alone: a Role in namespace {ref.namespace} with {rule}") from error
    if live is None:
        make = f"kubectl -n {ref.namespace} create secret docker-registry {ref.name} --docker-server=..."
        raise RegistryDenied(f"{ref}: is not there; make it ({make}), or correct its name in the registry's block")
    return credentials_in(live, ref)


def credentials_in(secret: Manifest, ref: ObjectRef) -> dict[str, Credentials]:
    """The credentials that a Secret holds, by host. Pure.

    Raises:
        RegistryDenied: it is of another type, or its text is no docker config.
    """
    if (kind := secret.get("type")) != TYPE:
        raise RegistryDenied(
            f"{ref}: is of type {kind}, and only {TYPE} is read; make one of that type, and name it in the registry's block"
        )
    try:
        return read_docker_config(base64.b64decode((secret.get("data") or {})[_KEY], validate=True).decode())
    except RegistryDenied as error:
        raise RegistryDenied(f"{ref}: {error}") from None
    except (KeyError, ValueError, binascii.Error):
        raise RegistryDenied(f"{ref}: holds no text under {_KEY}; make it anew") from None  # what failed to parse is a secret
