"""Skip pyfunc's signature enforcement for input that the gateway has validated.

Enforcement takes a third of the time that pyfunc spends on a batch of a small model. `ModelLoader` calls this once per
loaded version; ``tests/contract/test_model_parity.py`` shows that models get the same input and give the same answers.
"""

from __future__ import annotations

from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel

from app.serving.signatures.nested import NESTED_NAMES


def skip_enforcement(model: PyFuncModel) -> bool:
    """Remove the input schema of a loaded model whose inputs are scalars or tensors. Return True if it was removed.

    Nested types keep it, because enforcement turns lists inside cells into arrays. So do signatures from type hints,
    which the model's own code relies on. The schema of the parameters stays, because it supplies their defaults.
    """
    signature = model.metadata.signature
    if signature is None or signature.inputs is None:
        return False
    facts = model.metadata.to_dict()
    if facts.get("is_signature_from_type_hint") or facts.get("type_hint_from_example"):
        return False
    if any(spec["type"] in NESTED_NAMES or spec["type"] == "any" for spec in signature.inputs.to_dict()):
        return False
    model.metadata.signature = ModelSignature(params=signature.params) if signature.params else None
    return True
