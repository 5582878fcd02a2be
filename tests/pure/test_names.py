"""Names: what is refused and why, and that no derived name is too long, ill-formed, or shared by two subjects."""

import itertools
import re

import pytest

from modelyard.names import (
    MAX_FILE_NAME,
    MAX_LABEL,
    MAX_PATH,
    claim_name,
    claim_problem,
    label_value,
    name_problem,
    path_problem,
    preload_job_name,
    slug,
)

# The expressions of k8s.io/apimachinery/pkg/util/validation/validation.go: the API server's own, not ours.
DNS_1123_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


def is_dns_label(text: str) -> bool:
    return len(text) <= 63 and DNS_1123_LABEL.fullmatch(text) is not None


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "a/b/c.safetensors",
        "sub/.modelyard",
        ".modelyardish/x",
        "..weights",
        "...",
        ".git/config",
        "x" * MAX_FILE_NAME,
        "Größe/模型.bin",
        "with space/and'quote",
        "back\\slash",
        "-rf",
    ],
)
def test_paths_that_a_volume_takes(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../x", "'.' or '..'"),
        ("a/../x", "'.' or '..'"),
        ("a/..", "'.' or '..'"),
        ("./a", "'.' or '..'"),
        ("a/./b", "'.' or '..'"),
        (".", "'.' or '..'"),
        ("/abs", "absolute"),
        ("//abs", "absolute"),
        ("/", "absolute"),
        ("a//b", "empty directory name"),
        ("a/", "empty directory name"),
        ("", "empty"),
        (".modelyard/x", ".modelyard"),
        (".modelyard", ".modelyard"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\x1bb", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\x85b", "control characters"),
        ("x" * 300, "300 bytes"),
        ("ü" * 128, "256 bytes"),
        ("/".join(["x" * 100] * 40), f"limit is {MAX_PATH}"),
        ("a\udc80b", "not valid Unicode"),
        pytest.param(".MODELYARD/x", ".modelyard", id="on a volume that folds case it is ours as well"),
    ],
)
def test_paths_that_are_refused(path: str, why: str) -> None:
    problem = path_problem(path)
    assert problem is not None
    assert why in problem


@pytest.mark.parametrize("name", ["llama", "Llama-3.1-8B_instruct", "a", "0", "x" * 100])
def test_names_of_models_and_versions(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "llama\n", "ü", "x" * 101, "a-", "_a", ".modelyard"])
def test_names_that_are_refused(name: str) -> None:
    assert f"{name!r} must be 1 to 100" in str(name_problem(name))


@pytest.mark.parametrize("valid", ["a", "llama-2", "0x", "a" * 63])
def test_a_slug_keeps_what_is_valid(valid: str) -> None:
    assert slug(valid) == valid


def test_slugs_are_labels_and_never_meet() -> None:
    alphabet = "aA.-_"
    texts = {"".join(letters) for length in range(1, 7) for letters in itertools.product(alphabet, repeat=length)}
    texts |= {"x" * 63, "x" * 64, "x" * 65, "模型", "", "-" * 70, "a" * 70 + ".", "a" * 70 + "_"}
    slugs = {text: slug(text) for text in texts}
    assert [text for text, made in slugs.items() if not is_dns_label(made)] == []
    assert len(set(slugs.values())) == len(texts)


def test_a_slug_of_a_slug_is_no_other_texts_slug() -> None:
    """A valid text that looks like a slug is kept; it would have to guess the other's hash to meet it."""
    made = slug("Llama")
    assert slug(made) == made
    assert slug("llama") != made


@pytest.mark.parametrize("limit", [10, 45, 63])
@pytest.mark.parametrize("text", ["Llama 3.1 " * 20, "-" * 100, "a" * 100, "a" * 30 + "-" * 30 + "B"])
def test_a_slug_keeps_its_limit(text: str, limit: int) -> None:
    assert len(slug(text, limit)) <= limit
    assert is_dns_label(slug(text, limit))


@pytest.mark.parametrize("text", ["llama", "Llama-3.1_8B", "a" * 63, "a" * 64, "a b", "-a", "", "模型", "a\n"])
def test_label_values_are_what_kubernetes_takes(text: str) -> None:
    made = label_value(text)
    assert len(made) <= MAX_LABEL
    assert LABEL_VALUE.fullmatch(made)


@pytest.mark.parametrize(
    ("base", "suffix", "fits"),
    [
        ("cache", "", True),
        ("cache", "v2", True),
        ("c" * 60, "v2", True),
        ("c" * 61, "v2", False),
        ("Cache", "", False),
        ("cache", "v2-", False),
        ("cache", "v.2", False),
        ("-cache", "", False),
        ("", "", False),
        ("cache\n", "", False),
    ],
)
def test_claims(base: str, suffix: str, *, fits: bool) -> None:
    problem = claim_problem(base, suffix)
    assert (problem is None) == fits
    assert is_dns_label(claim_name(base, suffix)) == fits
    assert problem is None or repr(claim_name(base, suffix)) in problem


LONGEST = ["x" * 100, "X" * 100, "x" + "." * 98 + "x", "a"]


@pytest.mark.parametrize(("model", "version"), list(itertools.product(LONGEST, LONGEST)))
def test_the_longest_names_still_make_a_job(model: str, version: str) -> None:
    assert name_problem(model) is None
    assert name_problem(version) is None
    name = preload_job_name("c" * 63, model, version)
    assert is_dns_label(name), name


def test_a_job_belongs_to_one_claim_model_and_version() -> None:
    subjects = [
        ("c", "m", "v"),
        ("c2", "m", "v"),
        ("c", "m2", "v"),
        ("c", "m", "v2"),
        ("c", "m-v", "v"),
        ("c", "m", "v-v"),
        ("c", "M", "v"),
    ]
    assert len({preload_job_name(*subject) for subject in subjects}) == len(subjects)
    assert preload_job_name("c", "m", "v") == preload_job_name("c", "m", "v")
