"""Sharing as a service account with the rights that it needs and no more, under the policy on PersistentVolumes."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from blocks import Cluster
from flows.share import ShareReport, share_cache, unshare_cache
from modelyard.errors import Refused
from tests.cluster import test_sharing
from tests.cluster.preload.conftest import Stack
from tests.cluster.support import Manifest
from tests.cluster.test_sharing import claim, copy_name, empty, policy, wait_until
from tests.cluster.test_volume_policy import LIST, kubectl, policies
from tests.manifests import rules

pytestmark = pytest.mark.cluster
stack, image, teams = test_sharing.stack, test_sharing.image, test_sharing.teams


def rule(group: str, resource: str, *verbs: str) -> Manifest:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


#: In the cache's namespace and in each that it is shared with: what users install there.
IN_NAMESPACES = (*rules("target", "modelyard-copies"), *rules("target", "modelyard-references"))
#: For the cluster; the volume policy holds them to listed backends and to volumes of ours.
ON_THE_CLUSTER = (
    rule("", "persistentvolumes", "get", "list", "watch", "create", "patch", "delete"),
    rule("", "namespaces", "get"),
)


def granted(kind: str, rules: tuple[Manifest, ...], account: str, namespace: str | None = None) -> list[Manifest]:
    """A role and its binding to the service account ``modelyard`` of the namespace ``account``."""
    metadata = {"name": f"{account}-sharing", **({"namespace": namespace} if namespace else {})}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": metadata["name"]}
    subject = {"kind": "ServiceAccount", "name": "modelyard", "namespace": account}
    return [{**head, "kind": kind, "rules": list(rules)}, {**head, "kind": f"{kind}Binding", "roleRef": ref, "subjects": [subject]}]


ROOT = "which are the rights of root there"


@pytest.fixture
def account(stack: Stack, kubeconfig: str, teams: tuple[str, str], tmp_path: Path) -> Iterator[str]:
    """The name of a Cluster block with the account's token."""
    service_account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "modelyard", "namespace": stack.name}}
    objects = [service_account, *granted("ClusterRole", ON_THE_CLUSTER, stack.name)]
    for namespace in (stack.name, *teams):
        objects += granted("Role", IN_NAMESPACES, stack.name, namespace)
    manifests = tmp_path / "account.yaml"
    manifests.write_text("---\n".join([policies(stack.name), *map(yaml.safe_dump, objects)]))
    kubectl(kubeconfig, stack.cluster, "apply", f"--filename={manifests}")
    token = kubectl(kubeconfig, stack.cluster, "create", "token", "modelyard", f"--namespace={stack.name}").strip()
    Cluster(server=stack.kube.host, token=SecretStr(token), ca_certificate=stack.cluster.ca_bundle.read_text()).save(
        f"{stack.name}-limited"
    )
    yield f"{stack.name}-limited"
    kubectl(kubeconfig, stack.cluster, "delete", "--ignore-not-found", "--wait=false", f"--filename={manifests}")


def test_the_account_shares_what_is_listed_and_takes_it_away(stack: Stack, account: str, kubeconfig: str, teams: tuple[str, str]) -> None:
    empty(stack)
    parameters: dict[str, Any] = {"namespaces": list(teams), "cache": stack.name, "cluster": account}
    wait_until(lambda: any("not in the list" in problem for problem in shared(**parameters, dry_run=True).problems))
    with pytest.raises(Refused, match=f"hostPath:.* is not in the list .*{stack.name}-{LIST}") as caught:
        share_cache(**parameters)
    commands = {problem.next_step.partition("once: ")[2] for problem in caught.value.problems}
    assert len(commands) == 1, "both copies are of one backend"
    kubectl(kubeconfig, stack.cluster, *shlex.split(commands.pop())[1:])
    wait_until(lambda: not shared(**parameters, dry_run=True).problems)
    assert ROOT not in "".join(shared(**parameters, dry_run=True).notes)
    assert ROOT in "".join(shared(**{**parameters, "cluster": stack.name}, dry_run=True).notes), "an administrator's is not held"
    assert [each.action for each in shared(**parameters).namespaces] == ["create", "create"]
    assert [claim(stack, team)["status"]["phase"] for team in teams] == ["Bound", "Bound"]
    assert policy(stack) == ("Retain", "Delete")
    report = unshare_cache(cache=stack.name, cluster=account)
    assert isinstance(report, ShareReport)
    assert {each.namespace for each in report.namespaces} == set(teams)
    assert [stack.kube.get("PersistentVolume", copy_name(stack, team)) for team in teams] == [None, None]
    assert policy(stack) == ("Delete", None)


def shared(**parameters: Any) -> ShareReport:
    report = share_cache(**parameters)
    assert isinstance(report, ShareReport)
    return report
