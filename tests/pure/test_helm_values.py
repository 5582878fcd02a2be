"""From Helm values to a cache's settings: what is read, what is warned of, and what is refused, all at once."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from blocks.helm_values import OPTIONS, main, model_cache_from_values
from blocks.model_cache import ModelCache
from modelyard.caches import AccessMode, CacheSpec, LoaderResources
from modelyard.errors import Refused

SEED = """
global: {imagePullSecrets: [{name: regcred}]}
modelsCacheStorage:
  enabled: true
  storageSize: 1000Gi
  storageClassName: nfs-client
  pvcNameSuffix: fast
  bypassStorageCheck: true
  checkUnusedCachedModelsEvery: 1d
  purgeUnusedCachedModelsAfter: 1w
"""


def test_all_options_of_the_values_become_a_spec() -> None:
    block = model_cache_from_values(SEED, loader_image="loader:1", cacheName="mlis", base_name="aioli-models-cache-pvc-aioli")
    assert block.spec() == CacheSpec(
        name="mlis",
        namespace="default",
        base_name="aioli-models-cache-pvc-aioli",
        pvc_name_suffix="fast",
        storage_size=1000 * 2**30,
        storage_class_name="nfs-client",
        access_mode=AccessMode.READ_WRITE_MANY,
        bypass_storage_check=True,
        check_unused_every=timedelta(days=1),
        purge_unused_after=timedelta(weeks=1),
        headroom=0,
        loader_image="loader:1",
        loader_resources=LoaderResources(),
    )
    assert block.spec().claim == "aioli-models-cache-pvc-aioli-fast"


def test_every_option_is_a_field_under_its_own_name() -> None:
    assert set(OPTIONS) <= {field.alias for field in ModelCache.model_fields.values()}


@pytest.mark.parametrize(
    ("section", "field", "expected"),
    [
        pytest.param("storageSize: 1073741824", "storage_size", "1073741824", id="an unquoted amount is a number in YAML"),
        pytest.param("{storageSize: 1Gi, storageClassName: null}", "storage_class_name", None, id="null unsets, as in Helm"),
        pytest.param('{storageSize: 1Gi, storageClassName: ""}', "storage_class_name", None, id="empty is the default class"),
        pytest.param('{storageSize: 1Gi, purgeUnusedCachedModelsAfter: ""}', "purge_unused_cached_models_after", None, id="empty is never"),
        pytest.param("{storageSize: 1Gi, enabled: false}", "enabled", False, id="disabled"),
        pytest.param("storageSize: 1Gi", "enabled", True, id="enabled if it says nothing"),
    ],
)
def test_values_as_people_write_them(section: str, field: str, expected: object) -> None:
    assert getattr(model_cache_from_values(f"modelsCacheStorage: {_braced(section)}"), field) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("replicas: 3", ["modelsCacheStorage: missing in the values", "storageSize: Field required"], id="no section"),
        pytest.param("[1]", ["values: not a mapping"], id="a list"),
        pytest.param("a: [", ["values: not valid YAML"], id="not YAML"),
        pytest.param("modelsCacheStorage: true", ["modelsCacheStorage: holds True, not a mapping"], id="no mapping"),
        pytest.param(
            "modelsCacheStorage: {storagesize: 1Gi, storageClass: nfs, colour: red}",
            [
                "modelsCacheStorage.storagesize: unknown option; did you mean storageSize?",
                "modelsCacheStorage.storageClass: unknown option; did you mean storageClassName?",
                "modelsCacheStorage.colour: unknown option; known are enabled, storageSize",
                "storageSize: Field required",
            ],
            id="all unknown options, and what is missing for it",
        ),
        pytest.param(
            "modelsCacheStorage: {storageSize: 300GB, checkUnusedCachedModelsEvery: 1y, purgeUnusedCachedModelsAfter: 0s}",
            [
                "storageSize: '300GB' is not a size",
                "checkUnusedCachedModelsEvery: '1y' is not a duration",
                "purgeUnusedCachedModelsAfter: '0s'",
            ],
            id="all bad amounts",
        ),
        pytest.param("modelsCacheStorage: {storageSize: 0}", ["storageSize: '0' is nothing"], id="no size"),
        pytest.param(
            "modelsCacheStorage: {storageSize: 1Gi, enabled: maybe}", ["enabled: Input should be a valid boolean"], id="no boolean"
        ),
        pytest.param("modelsCacheStorage: {storageSize: true}", ["storageSize: Input should be a valid string"], id="no amount"),
        pytest.param(
            "modelsCacheStorage: {storageSize: 1Gi, pvcNameSuffix: V2_}",
            ["modelsCacheStorage: baseName and pvcNameSuffix make the claim's name, and 'modelyard-models-cache-V2_' (26"],
            id="no claim's name",
        ),
        pytest.param(
            "{modelsCacheStorage: {storageSize: 1Gi, enabled: true}, modelCacheStorage: {enabled: false, storageSize: 2Gi}}",
            [
                "modelCacheStorage.storageSize: modelCacheStorage is misspelt; write it as modelsCacheStorage.storageSize",
                "modelCacheStorage.enabled: it says False, modelsCacheStorage.enabled says True; keep modelsCacheStorage.enabled alone",
            ],
            id="the misspelt section contradicts",
        ),
    ],
)
def test_everything_wrong_is_told_at_once(text: str, told: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        model_cache_from_values(text)
    lines = str(refused.value).splitlines()
    assert [line for line in told if not any(found.startswith(line) for found in lines)] == [], lines


def test_the_misspelt_switch_of_the_documentation_is_read_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"modelCacheStorage.enabled is misspelt; it is read as modelsCacheStorage.enabled") as warned:
        block = model_cache_from_values("{modelsCacheStorage: {storageSize: 1Gi}, modelCacheStorage: {enabled: false}}")
    assert block.enabled is False
    assert warned[0].filename == __file__, "the warning points at the caller"


def test_the_misspelt_switch_may_agree() -> None:
    with pytest.warns(UserWarning, match="misspelt"):
        block = model_cache_from_values("{modelsCacheStorage: {storageSize: 1Gi, enabled: false}, modelCacheStorage: {enabled: false}}")
    assert block.enabled is False


def test_an_unknown_override_is_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"loader_imge: unknown option; did you mean loader_image\?"):
        model_cache_from_values(SEED, loader_imge="x")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"enabled": False}, "cache a: caching is disabled (enabled: false); set enabled to true in its block and save it"),
        ({"loader_image": None}, "cache a: no loaderImage is set"),
        ({"cache_name": None}, "cache (unnamed): it has no name; save the block under a name, or set cacheName"),
    ],
)
def test_a_cache_that_cannot_be_worked_with_says_why(settings: dict[str, Any], told: str) -> None:
    complete: dict[str, Any] = {"storage_size": "1Gi", "loader_image": "loader:1", "cache_name": "a"}
    with pytest.raises(Refused) as refused:
        ModelCache(**(complete | settings)).spec()
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"namespace": "Models"}, "'Models' (6 characters) must be 1 to 63"),
        ({"uid": 0}, "greater than 0"),
        ({"headroom": "5%"}, "'5%' is not a size"),
        ({"loader_cpu_request": "half"}, "'half' is no amount of processors; write 500m"),
        ({"loader_memory_limit": "128Mi"}, "is below loaderMemoryRequest"),
        ({"cache_name": "a/b"}, "'a/b' must be 1 to 100"),
        ({"access_mode": "ReadOnlyMany"}, "ReadWriteMany"),
    ],
)
def test_settings_that_make_no_cache(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        ModelCache(storage_size="1Gi", **settings)
    assert told in str(invalid.value)


def test_the_command_prints_settings_under_the_names_of_the_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(SEED)
    assert main([str(values), "--namespace", "serving"]) == 0
    shown = capsys.readouterr().out
    assert '"storageClassName": "nfs-client"' in shown
    assert '"namespace": "serving"' in shown


@pytest.mark.parametrize("text", ["replicas: 3", None])
def test_the_command_fails_with_the_problems(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.yaml"
    if text:
        values.write_text(text)
    assert main([str(values)]) == 1
    assert ("modelsCacheStorage: missing" if text else "No such file") in capsys.readouterr().err


def _braced(section: str) -> str:
    return section if section.startswith("{") else f"{{{section}}}"
