"""The Open Inference Protocol's own values: datatypes and tensors as bytes. Servers and clients share them."""
