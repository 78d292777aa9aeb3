"""Leaves out pyfunc's enforcement of a signature where the gateway has enforced the same before.

It is a third of the time that pyfunc spends on a batch of a small model. `app.adapters.mlflow.loader` calls this once
per loaded version; ``tests/contract/test_model_parity.py`` shows that what models are given and answer stays the same.
"""

from __future__ import annotations

from typing import Any

from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel

from app.serving.signatures.nested import NESTED_NAMES


def leave_out_enforcement(model: PyFuncModel) -> bool:
    """Take the inputs' schema from a loaded model whose inputs are scalars or tensors; True where that was done.

    Nested values keep it: enforcement turns lists inside of cells into arrays. So do signatures that were read from
    type hints, which a model's own code relies on. The parameters' schema stays, since it fills in defaults.
    """
    signature = model.metadata.signature
    if signature is None or signature.inputs is None:
        return False
    facts = model.metadata.to_dict()
    if facts.get("is_signature_from_type_hint") or facts.get("type_hint_from_example"):
        return False
    if any(_is_nested(spec) for spec in signature.inputs.to_dict()):
        return False
    model.metadata.signature = ModelSignature(params=signature.params) if signature.params else None
    return True


def _is_nested(spec: dict[str, Any]) -> bool:
    return spec["type"] in NESTED_NAMES or spec["type"] == "any"
