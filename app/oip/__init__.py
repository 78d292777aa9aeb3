"""Values of the Open Inference Protocol that servers and clients share: datatypes and tensors as bytes."""
