"""How a registry is reached from a pod: what a flow knows goes into the Job's Secret, and comes back out of the pod's environment."""

import base64
import json
from collections.abc import Mapping

from modelyard.images.references import api_host
from modelyard.oci.access import Access, Keychain, Login, credentials_for, read_docker_config

#: A docker config with the credentials, and the authority of the main registry as PEM text.
CONFIG_VARIABLE = "MODELYARD_REGISTRY_CONFIG"
AUTHORITY_VARIABLE = "MODELYARD_REGISTRY_CA"
#: What a build's Job vouches with for its records, in hexadecimal digits.
VOUCHER_VARIABLE = "MODELYARD_VOUCHER"


def secret_of(keychain: Keychain) -> dict[str, str]:
    """What a Job's Secret holds, by the names of the pod's variables; empty if there is nothing secret or special."""
    known = dict(keychain.others) | ({keychain.main.host: keychain.main.credentials} if keychain.main.credentials else {})
    config = {CONFIG_VARIABLE: json.dumps({"auths": {host: _entry(found) for host, found in known.items()}})} if known else {}
    return config | ({AUTHORITY_VARIABLE: keychain.main.authority} if keychain.main.authority else {})


def keychain_of(environment: Mapping[str, str], host: str, *, plain_http: bool, resume_uploads: bool = False) -> Keychain:
    """How the pod reaches the registry that references call ``host``, and others that it was given credentials of.

    Raises:
        RegistryDenied: the variable holds no docker config.
    """
    known = read_docker_config(config) if (config := environment.get(CONFIG_VARIABLE)) else {}
    authority, login = environment.get(AUTHORITY_VARIABLE), credentials_for(api_host(host), known)
    return Keychain(Access(api_host(host), plain_http, authority, login, resume_uploads), known)


def _entry(found: Login) -> dict[str, str]:
    if found.refresh_token:
        return {"identitytoken": found.refresh_token}
    return {"auth": base64.b64encode(f"{found.username}:{found.password}".encode()).decode()}
