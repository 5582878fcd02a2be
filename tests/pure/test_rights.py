"""The rights that deployments/kubernetes grants: as few as there can be, each with its use."""

import re
from pathlib import Path

import pytest
import yaml

from tests.manifests import ACCOUNTS, CACHE, DIRECTORY, TARGET, Manifest, read

ROOTS = sorted(path.parent.relative_to(DIRECTORY) for path in DIRECTORY.rglob("kustomization.yaml"))
FILES = sorted(path for path in DIRECTORY.rglob("*.yaml") if path.name != "kustomization.yaml")
MANIFESTS = [each for root in ROOTS for each in read(str(root))]
ROLES = [each for each in MANIFESTS if each["kind"] in {"Role", "ClusterRole"}]
BINDINGS = [each for each in MANIFESTS if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}]
#: Where KServe's controller runs: modelcars are enabled there.
KSERVE = "kserve"
#: Read by name only, or not at all: a list of them is every password of a namespace.
CLOSED = {"secrets", "serviceaccounts", "serviceaccounts/token", "pods/exec", "pods/attach", "nodes/proxy"}


def name(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def granted(role: Manifest) -> list[tuple[str, str, str]]:
    return [
        (group, resource, verb)
        for rule in role.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_no_role_has_a_wildcard_or_gives_rights_away(role: Manifest) -> None:
    for group, resource, verb in granted(role):
        assert "*" not in {group, resource, verb}
        assert verb not in {"escalate", "bind", "impersonate", "deletecollection"}
        assert group != "rbac.authorization.k8s.io"
        assert resource not in CLOSED - {"secrets", "serviceaccounts"}


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_secrets_are_never_listed_and_never_reached_cluster_wide(role: Manifest) -> None:
    verbs = {verb for _, resource, verb in granted(role) if resource == "secrets"}
    assert verbs <= ({"get", "create", "patch"} if role["kind"] == "Role" else set())


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_service_accounts_are_read_by_name_in_one_namespace(role: Manifest) -> None:
    """One says which pull secrets its pods have, by name."""
    verbs = {verb for _, resource, verb in granted(role) if resource == "serviceaccounts"}
    assert verbs <= ({"get"} if role["kind"] == "Role" else set())


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_no_right_is_granted_twice_in_a_role(role: Manifest) -> None:
    assert len(granted(role)) == len(set(granted(role)))


@pytest.mark.parametrize("binding", BINDINGS, ids=name)
def test_a_binding_gives_one_of_our_roles_to_our_own_accounts(binding: Manifest) -> None:
    ref = binding["roleRef"]
    assert f"{ref['kind']}-{ref['name']}" in {name(role) for role in ROLES}
    assert {(each["kind"], each["namespace"]) for each in binding["subjects"]} == {("ServiceAccount", ACCOUNTS)}
    accounts = {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "ServiceAccount"}
    assert {each["name"] for each in binding["subjects"]} <= accounts


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_each_role_is_bound(role: Manifest) -> None:
    assert name(role) in {f"{each['roleRef']['kind']}-{each['roleRef']['name']}" for each in BINDINGS}


def test_nothing_is_put_into_namespaces_of_others() -> None:
    ours = {ACCOUNTS, CACHE, TARGET}
    found = {(each["kind"], each["metadata"]["namespace"]) for each in MANIFESTS if "namespace" in each["metadata"]}
    assert {(kind, there) for kind, there in found if there not in ours} <= {("Role", KSERVE), ("RoleBinding", KSERVE)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DIRECTORY)))
def test_each_verb_has_its_use_beside_it(path: Path) -> None:
    verbs = re.compile(r"^      - (get|list|watch|create|update|patch|delete)\b(.*)$", re.MULTILINE)
    text = path.read_text()
    roles = [each for each in yaml.safe_load_all(text) if each and each["kind"] in {"Role", "ClusterRole"}]
    if not roles:
        return
    told = verbs.findall(text)
    served = [rule for role in roles for rule in role["rules"] if rule["apiGroups"] != ["policy.modelyard.dev"]]  # asked for by a policy
    assert len(told) == sum(len(rule["verbs"]) for rule in served), "verbs are written one a line"
    assert [verb for verb, rest in told if not re.match(r"  # \w", rest)] == []


def test_every_file_is_part_of_a_kustomization() -> None:
    named = {(DIRECTORY / root / each).resolve() for root in ROOTS for each in _named(root)}
    assert [str(path) for path in FILES if path not in named] == []


def _named(root: Path) -> list[str]:
    found: list[str] = yaml.safe_load((DIRECTORY / root / "kustomization.yaml").read_text())["resources"]
    return found


def test_pods_are_made_for_the_probe_alone() -> None:
    """Elsewhere it is Jobs that make them; what may be asked as a dry run may be done."""
    able = {str(root) for root in ROOTS for role in read(str(root)) if ("", "pods", "create") in granted(role)}
    assert able == {"enable-modelcars/probe"}


def test_the_right_to_make_volumes_never_comes_without_its_policy() -> None:
    able = [root for root in ROOTS for role in read(str(root)) if ("", "persistentvolumes", "create") in granted(role)]
    assert able
    for root in able:
        assert "ValidatingAdmissionPolicyBinding" in {each["kind"] for each in read(str(root))}
