"""What a model takes, compiled once from its MLflow signature, and the rows of each request read by it.

`app.serving.prediction.service` compiles one per model version. Everything that a caller can get wrong is told here,
before the
request enters a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from app.errors import InvalidInput, ModelUnavailable
from app.serving.rows import Array, Rows
from app.serving.signatures.column_input import ColumnInput
from app.serving.signatures.columns import Column
from app.serving.signatures.parameters import Parameters
from app.serving.signatures.tensor_input import TensorInput
from app.serving.signatures.untyped_input import UntypedInput
from app.serving.signatures.validation_errors import short

Specs = Sequence[Mapping[str, Any]]


class _Input(Protocol):
    """One of the three families of input: columns, tensors, or untyped."""

    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def tensor(self) -> Column | None: ...
    @property
    def fixed_rows(self) -> int | None: ...

    def from_records(self, records: list[Any], params: str) -> Rows: ...
    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows: ...
    def from_instances(self, instances: list[Any], params: str) -> Rows: ...
    def from_inputs(self, inputs: Any, params: str) -> Rows: ...
    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows: ...


class Signature:
    """A compiled signature. All readers raise `InvalidInput`; its details name column, row and what was expected.

    Attributes:
        columns: the named inputs, columns or tensors; empty for a tensor without a name and without a signature.
        tensor: the one input of a signature that is a tensor without a name.
        is_tensor: the model is given arrays, not a DataFrame, whatever is sent.
        required_columns: the names of the inputs that each row must have.
        param_names: the parameters that may be given.
        fixed_rows: the number of rows that each call must have, where the signature fixes it. Such inputs must not be
            stacked with others.
        outputs: MLflow's JSON of the outputs, empty where it is not known.
    """

    __slots__ = (
        "_input", "_parameters", "_reads", "columns", "fixed_rows", "is_tensor", "outputs", "param_names",
        "required_columns", "tensor",
    )  # fmt: skip

    def __init__(self, inputs: _Input, parameters: Parameters, outputs: Specs, reads: Any) -> None:
        self._reads = reads
        self._input = inputs
        self._parameters = parameters
        self.columns = inputs.columns
        self.tensor = inputs.tensor
        self.fixed_rows = inputs.fixed_rows
        self.is_tensor = isinstance(inputs, TensorInput)
        self.required_columns = tuple(column.name for column in inputs.columns if column.required)
        self.param_names = parameters.names
        self.outputs = tuple(outputs)

    @classmethod
    def compile(cls, inputs: Specs | None, outputs: Specs | None = None, params: Specs | None = None) -> Signature:
        """Compile the parsed JSON of ``ModelSignature.to_dict()``, each None where the model was logged without.

        Raises:
            ModelUnavailable: the signature has a type that is not known here.
        """
        try:
            family: _Input = UntypedInput()
            if inputs:
                family = (TensorInput if inputs[0]["type"] == "tensor" else ColumnInput)(inputs)
            return cls(family, Parameters(params), outputs or (), (list(inputs or ()), list(params or ())))
        except (KeyError, TypeError) as error:
            raise ModelUnavailable(f"the model's signature is not understood: {error}") from error

    @property
    def by_row(self) -> bool:
        """Whether the model answers row by row, so that requests may be cut and batches merged.

        Without a signature, or with a fixed number of rows, a request may mean something only as a whole.
        """
        return self.fixed_rows is None and (bool(self.columns) or self.tensor is not None)

    def reads_as(self, other: Signature) -> bool:
        """Whether the other makes the same rows of whatever it is given."""
        return bool(self._reads == other._reads)

    def rows_from_records(self, records: list[Any], params: Mapping[str, Any] | None = None) -> Rows:
        """Rows as objects of column name and value."""
        _check_list(records)
        return self._input.from_records(records, self._parameters.canonical(params))

    def rows_from_columns(self, columns: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> Rows:
        """Values by column name: lists or arrays of one length, or one value each, which is one row."""
        if not isinstance(columns, Mapping):
            raise InvalidInput(f"the columns are {short(columns)}, expected an object", {"expected": "object"})
        return self._input.from_columns(columns, self._parameters.canonical(params))

    def rows_from_instances(self, instances: list[Any], params: Mapping[str, Any] | None = None) -> Rows:
        """The row form of TensorFlow Serving and KServe: a list of objects, of lists, or of single values."""
        _check_list(instances)
        return self._input.from_instances(instances, self._parameters.canonical(params))

    def rows_from_inputs(self, inputs: Any, params: Mapping[str, Any] | None = None) -> Rows:
        """The column form of TensorFlow Serving: values by name, one unnamed tensor, or what `instances` may be."""
        return self._input.from_inputs(inputs, self._parameters.canonical(params))

    def rows_from_tensors(self, tensors: Mapping[str, Array], params: Mapping[str, Any] | None = None) -> Rows:
        """The form of the Open Inference Protocol: an array per input. Objects in an array are bytes or text."""
        return self._input.from_tensors(tensors, self._parameters.canonical(params))


def _check_list(rows: Any) -> None:
    if not isinstance(rows, list):
        raise InvalidInput(f"the rows are {short(rows)}, expected a list", {"expected": "list"})
