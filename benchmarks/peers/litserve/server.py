"""A pyfunc model behind LitServe, which batches requests."""

import os

import litserve as ls
import mlflow
import pandas as pd


class Model(ls.LitAPI):
    def setup(self, device):
        self.model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"])
        self.columns = self.model.metadata.get_input_schema().input_names()

    def decode_request(self, request):
        return request["row"]

    def batch(self, rows):
        return pd.DataFrame(rows, columns=self.columns)

    def predict(self, frame):
        return self.model.predict(frame)

    def unbatch(self, predictions):
        return list(predictions)

    def encode_response(self, prediction):
        return {"prediction": float(prediction)}


if __name__ == "__main__":
    server = ls.LitServer(Model(max_batch_size=64, batch_timeout=0.0), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
