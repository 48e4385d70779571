"""scikit-learn's own tests of its perceptrons, as they are installed, with bpcore's classes in their place."""

import importlib.util
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import sklearn
import sklearn.neural_network as peer

from bpcore import sklearn as ours

PRIVATE = {"test_gradient"}  # it calls methods of scikit-learn's that bpcore has replaced, with their arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # tests that expect warnings record them


def _swapped() -> ModuleType:
    """A module of its own, in which names of scikit-learn's classes mean bpcore's."""
    path = Path(sklearn.__file__).parent / "neural_network/tests/test_mlp.py"
    spec = importlib.util.spec_from_file_location("test_mlp_of_scikit_learn", path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.multiple(peer, MLPClassifier=ours.MLPClassifier, MLPRegressor=ours.MLPRegressor):
        spec.loader.exec_module(module)
    assert module.MLPClassifier is ours.MLPClassifier and module.MLPRegressor is ours.MLPRegressor
    return module


@pytest.fixture
def global_random_seed():
    """What scikit-learn's conftest gives unless told otherwise."""
    return 42


globals().update({k: test for k, test in vars(_swapped()).items() if k.startswith("test_") and k not in PRIVATE})
