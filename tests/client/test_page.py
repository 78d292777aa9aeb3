"""The examples of docs/client.md, run as they are written, one after another."""

import re

import numpy as np
import pytest

from tests.fakes import FakeFeatureStore, FakeModel, columns, make_fakes, tensor
from tests.platform import ROOT
from tests.server import Server

MODEL = "commodity_price_predictor"
COLUMNS = ("crude_oil_price", "natural_gas_price", "exchange_rate")
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL)


def prices(offset: float) -> FakeModel:
    outputs = [{"name": "price", "type": "double", "required": True}]
    return FakeModel(
        lambda batch: tensor(np.round(np.sum(batch.arrays, axis=0) + offset, 2)), columns(*COLUMNS), outputs
    )


def test_the_examples_print_what_stands_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    wti = dict(zip(COLUMNS, (75.5, 3.2, 1.18), strict=True))
    features = FakeFeatureStore({"commodity_features": {"crude_oil_wti": wti}}, join_key="commodity_id")
    models = {MODEL: prices(0), f"{MODEL}/versions/2": prices(1)}
    fakes = make_fakes(models, aliases={MODEL: {"champion": "1", "challenger": "2"}}, features=features)
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(BLOCKS), re.MULTILINE)
    with Server(fakes.app) as server:
        names: dict[str, object] = {}
        for block in BLOCKS:
            exec(block.replace("http://127.0.0.1:8000", server.url), names)
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == "".join(BLOCKS).count("print(")
