"""Constants of the demo: its model, columns and commodities. All data is synthetic."""

from __future__ import annotations

from datetime import UTC, datetime

MODEL = "commodity_price_predictor"
SERVICE = "commodity_price_service"
COLUMNS = ("crude_oil_price", "natural_gas_price", "exchange_rate")
EXAMPLE = (75.5, 3.2, 1.18)
NOTES = {
    "crude_oil_price": {"description": "Price of crude oil", "unit": "USD per barrel"},
    "natural_gas_price": {"description": "Price of natural gas", "unit": "USD per MMBtu"},
    "exchange_rate": {"description": "Exchange rate", "unit": "USD per EUR"},
    "price": {"description": "Price of the commodity", "unit": "USD per barrel"},
}
"""Documentation of the model's columns, input and output."""

COMMODITIES = {
    "crude_oil_wti": EXAMPLE,
    "crude_oil_brent": (79.8, 3.2, 1.18),
    "crude_oil_dubai": (78.1, 3.1, 1.17),
    "natural_gas_henry_hub": (74.2, 3.4, 1.18),
    "natural_gas_ttf": (74.9, 5.6, 1.09),
    "heating_oil": (81.3, 3.0, 1.18),
    "gasoline_rbob": (77.4, 2.9, 1.19),
    "coal_newcastle": (70.6, 4.2, 1.12),
}
"""Entities of the feature view and their latest values, in the order of `COLUMNS`."""

DATA_ENDS = datetime(2026, 1, 1, tzinfo=UTC)
"""Time of the newest rows."""
