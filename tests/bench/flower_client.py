"""Flower's side of `flower.py`, run by Flower's own Python: `flower_client.py FOLDER`."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

FOLDER = Path(sys.argv[1])
TASK = json.loads((FOLDER / "task.json").read_text())


def network() -> nn.Module:
    """The CNN of `run.model = "digits-cnn"`."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def take(model: nn.Module, values: list[np.ndarray]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))


def give(model: nn.Module) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


class Client(NumPyClient):
    def __init__(self, shard: int, folder: Path, task: dict) -> None:
        with np.load(folder / "shards.npz") as arrays:
            self.x = torch.from_numpy(arrays[f"x{shard}"]).float() / 255.0
            self.y = torch.from_numpy(arrays[f"y{shard}"]).long()
        self.task = task

    def fit(self, parameters, config):
        torch.set_num_threads(1)
        model = network()
        take(model, parameters)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
        order = torch.randperm(len(self.x))
        at = 0
        for _ in range(self.task["steps"]):
            if at + self.task["batch"] > len(order):
                order, at = torch.randperm(len(self.x)), 0
            batch = order[at : at + self.task["batch"]]
            at += self.task["batch"]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(self.x[batch]), self.y[batch]).backward()
            optimizer.step()
        return give(model), len(self.x), {}


class Timed(FedAvg):
    """FedAvg that notes when the first round begins and the last one ends."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.begun_s = 0.0

    def configure_fit(self, server_round, parameters, client_manager):
        if server_round == 1:
            client_manager.wait_for(TASK["clients"])
            self.begun_s = time.perf_counter()
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):
        assert len(results) == TASK["clients"]
        assert not failures
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if server_round == TASK["rounds"]:
            seconds = time.perf_counter() - self.begun_s
            model = network()
            take(model, parameters_to_ndarrays(parameters))
            with np.load(FOLDER / "shards.npz") as arrays, torch.no_grad():
                found = model(torch.from_numpy(arrays["x"]).float() / 255.0).argmax(1).numpy()
                accuracy = float((found == arrays["y"]).mean())
            result = {"seconds": seconds, "accuracy": accuracy}
            (FOLDER / "result.json").write_text(json.dumps(result))
        return parameters, metrics


def main() -> None:
    folder, task = FOLDER, TASK

    def client(context):
        number = int(context.node_config["partition-id"])
        return Client(number % 64, folder, task).to_client()

    def server(_context):
        strategy = Timed(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=task["clients"],
            min_available_clients=task["clients"],
            initial_parameters=ndarrays_to_parameters(give(network())),
        )
        return ServerAppComponents(
            strategy=strategy, config=ServerConfig(num_rounds=task["rounds"])
        )

    run_simulation(
        ServerApp(server_fn=server),
        ClientApp(client_fn=client),
        num_supernodes=task["clients"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main()
