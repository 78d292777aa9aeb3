"""The HTTP surface: one module per dialect, all over ``app.serving.prediction.service``."""
