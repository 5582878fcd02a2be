"""A registry's credentials as a flow's body needs them: they may lie in a Secret, and its API server may be away for a while.

A plain function and no task: what a task gives back may be kept, and nothing of this may be. Tasks that are tried again as a whole
ask the block themselves.
"""

import logging

from blocks import OciRegistry
from modelyard.errors import ClusterUnavailable
from modelyard.kube.apply import patiently
from modelyard.oci.access import Keychain

#: A control plane of one node that is upgraded is away for minutes, and what was built until then took hours.
AWAY_SECONDS = 300.0
_LOG = logging.getLogger("modelyard.keychains")  # a run's log shows what is below this name


def keychain_of_block(registry: OciRegistry) -> Keychain:
    """What the block gives, asked again while the cluster that holds its Secret is away.

    Raises:
        RegistryDenied: the Secret cannot be read, or has nothing for this registry.
        ClusterUnavailable: its cluster has not answered for as long as is waited.
        Refused: its cluster's block cannot be used.
    """

    def read() -> Keychain:
        try:
            return registry.keychain()
        except ClusterUnavailable as error:
            _LOG.warning("credentials of %s: %s", registry.host, error)
            raise

    return patiently(read, seconds=AWAY_SECONDS)
