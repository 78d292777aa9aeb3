"""Compiled MLflow signatures, which validate the rows of each request before it enters a batch.

`app.serving.prediction.served_model` compiles one per model version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from app.errors import InvalidInput, ModelUnavailable
from app.serving.rows import Rows
from app.serving.signatures.column_input import ColumnInput
from app.serving.signatures.hinted_input import HintedInput
from app.serving.signatures.parameters import Parameters
from app.serving.signatures.positional_input import PositionalInput
from app.serving.signatures.tensor_input import TensorInput
from app.serving.signatures.untyped_input import UntypedInput
from app.serving.signatures.validation_errors import short

Specs = Sequence[Mapping[str, Any]]
Form = Literal["records", "columns", "instances", "inputs", "tensors"]


class Signature:
    """A compiled signature.

    Attributes:
        columns: the named inputs, columns or tensors; empty without a signature, or if the only tensor has no name.
        tensor: the only tensor of a signature without names.
        is_tensor: whether the model gets arrays instead of a DataFrame.
        required_columns: the names of the inputs that each row must have.
        param_names: the parameters that a request may have.
        is_positional: whether the columns have no names.
        hinted: whether a type hint validates the input, where the model is.
        fixed_rows: the number of rows per call if the signature fixes it. Such inputs must not be stacked with others.
        outputs: MLflow's JSON of the outputs, empty if it is not known.
    """

    def __init__(self, inputs: Specs, outputs: Specs, params: Specs, *, hinted: bool) -> None:
        family = _family(inputs, hinted=hinted)
        self._parameters = Parameters(params)
        self._readers = {form: getattr(family, f"from_{form}") for form in get_args(Form)}
        self._reads = (list(inputs), list(params), hinted)
        self.columns = family.columns
        self.tensor = family.tensor
        self.fixed_rows = family.fixed_rows
        self.is_tensor = isinstance(family, TensorInput)
        self.is_positional = isinstance(family, PositionalInput)
        self.hinted = isinstance(family, HintedInput)
        needed = () if self.hinted else family.columns
        self.required_columns = tuple(column.name for column in needed if column.required)
        self.param_names = self._parameters.names
        self.outputs = tuple(outputs)

    @classmethod
    def compile(
        cls,
        inputs: Specs | None,
        outputs: Specs | None = None,
        params: Specs | None = None,
        *,
        hinted: bool = False,
    ) -> Signature:
        """Compile the parsed JSON of ``ModelSignature.to_dict()``; None for parts that the model was logged without.

        Args:
            inputs, outputs, params: the parts.
            hinted: MLflow inferred `inputs` from the type hint of the model's function.

        Raises:
            ModelUnavailable: the signature has an unknown type.
        """
        try:
            return cls(inputs or (), outputs or (), params or (), hinted=hinted)
        except (KeyError, TypeError) as error:
            raise ModelUnavailable(f"the gateway does not support the model's signature: {error}") from error

    def reads_as(self, other: Signature) -> bool:
        """Whether the other signature makes the same rows of every request."""
        return bool(self._reads == other._reads)

    def rows(self, form: Form, value: Any, params: Mapping[str, Any] | None = None) -> Rows:
        """Validate a request's rows, written in one of these forms, and its parameters.

        Args:
            form: ``records``: a list of objects, one per row. ``columns``: an object of lists or arrays of one length,
                or of single values, which are one row. ``instances`` and ``inputs``: the row and the column format of
                TensorFlow Serving. ``tensors``: an array per input, whose objects are bytes or text.
            value: the rows.
            params: inference parameters by name.

        Raises:
            InvalidInput: the rows or parameters do not fit; `details` has the column, the row and what is expected.
        """
        if form in ("records", "instances"):
            if not isinstance(value, list):
                raise InvalidInput(f"the rows are {short(value)}, expected a list", {"expected": "list"})
        elif form == "columns" and not isinstance(value, Mapping):
            raise InvalidInput(f"the columns are {short(value)}, expected an object", {"expected": "object"})
        rows: Rows = self._readers[form](value, self._parameters.canonical(params))
        return rows


def _family(inputs: Specs, *, hinted: bool) -> ColumnInput | TensorInput | UntypedInput | HintedInput:
    if not inputs:
        return UntypedInput()
    if hinted:
        return HintedInput(inputs)
    if inputs[0]["type"] == "tensor":
        return TensorInput(inputs)
    return (ColumnInput if "name" in inputs[0] else PositionalInput)(inputs)
