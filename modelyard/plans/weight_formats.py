"""Which files pickle loads, as far as their names tell: what is refused before a byte is read, and what is looked into afterwards."""

import re
from collections.abc import Iterable, Sequence

from modelyard.errors import Problem
from modelyard.models import SourceFile, WeightPolicy
from modelyard.plans.paths import MAX_PROBLEMS, shown

#: What these hold is given to pickle by whoever loads them, directly or from inside of an archive (numpy: if it is no array).
PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".th", ".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".npy", ".npz", ".nemo", ".mar"})
#: Pickles by custom, and raw bytes just as often (OpenVINO, CTranslate2, TensorFlow): their content tells.
AMBIGUOUS_SUFFIXES = frozenset({".bin", ".ckpt", ".dat", ".data"})
#: Names that transformers and diffusers give to pickles.
_PICKLE_NAMES = re.compile(r"(.*[-_])?(pytorch_model|adapter_model|training_args|optimizer|scheduler|rng_state)([-_.].*)?\.bin")
#: They hold arrays; only arrays of objects are pickles.
_ARRAYS = frozenset({".npy", ".npz"})

NEXT_STEP = "convert it to safetensors, or set weightFormats (upload: --weights) to any if you trust its author"


def is_pickle_name(path: str) -> bool:
    """Whether a file's name says that pickle loads it, also compressed (``x.pkl.gz``)."""
    return not PICKLE_SUFFIXES.isdisjoint(_suffixes(path))


def may_be_pickle_name(path: str) -> bool:
    """Whether a file's name is one that pickles have, among others."""
    return not AMBIGUOUS_SUFFIXES.isdisjoint(_suffixes(path))


def _suffixes(path: str) -> list[str]:
    return [f".{part}" for part in path.rpartition("/")[2].lower().split(".")[1:][-2:]]


def weight_problems(files: Iterable[SourceFile], policy: WeightPolicy) -> list[Problem]:
    """The files that the policy refuses by their names alone: the first ``MAX_PROBLEMS``, then how many more."""
    if policy is not WeightPolicy.NO_PICKLE:
        return []
    refused = [file.path for file in files if _surely(file.path)]
    problems = [Problem(shown(path), "is a format that pickle loads, and weightFormats is no-pickle", NEXT_STEP) for path in refused]
    return first_problems(problems)


def weight_refusal(path: str, dangers: Sequence[str], policy: WeightPolicy, *, pickled: bool) -> Problem | None:
    """Why the policy refuses a file of which this was found, or None."""
    if policy is WeightPolicy.ANY:
        return None
    if dangers:
        return Problem(shown(path), "; ".join(dangers), NEXT_STEP)
    if pickled and policy is WeightPolicy.NO_PICKLE:
        return Problem(shown(path), "is loaded by pickle, and weightFormats is no-pickle", NEXT_STEP)
    return None


def first_problems(problems: list[Problem]) -> list[Problem]:
    """The first ``MAX_PROBLEMS``, then how many more files there are."""
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem(f"{len(problems) - MAX_PROBLEMS} more files", "are refused as well", NEXT_STEP)]


def _surely(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return (is_pickle_name(path) and _ARRAYS.isdisjoint(_suffixes(path))) or bool(_PICKLE_NAMES.fullmatch(name))
