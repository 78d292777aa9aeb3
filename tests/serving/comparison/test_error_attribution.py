from app.errors import ServingError
from app.serving.comparison.error_attribution import is_fault
from tests.test_errors import TREE

FAULTS = {
    "deadline_exceeded",
    "internal",
    "model_failed",
    "model_unavailable",
    "pool_unavailable",
    "replica_died",
}


def test_only_faults_of_a_version_count_against_it() -> None:
    kinds: list[type[ServingError]] = TREE
    assert {kind.code for kind in kinds if is_fault(kind.code)} == FAULTS
