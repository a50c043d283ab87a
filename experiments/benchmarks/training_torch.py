"""PyTorch's side of the training benchmark, as a user would write it: tensors in memory, one seed after another.

Runs in a process of its own and answers requests of `training.py`.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from cases import SHAPES
from networks_torch import prune_torch, torch_network


def serve(device: str) -> None:
    """Answer requests until the input ends, each with the seconds of an epoch of all seeds.

    A request with "kind" makes new networks (size, num_seeds, keep) for the stored images, batch and rate.
    """
    import torch
    from torch import nn

    nets: list[tuple[Any, Any]] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "kind" in request:
            kind, batch = request["kind"], request["batch"]
            stored = np.load(request["images"])
            x = torch.tensor(stored["x"], device=device).permute(0, 3, 1, 2).contiguous()
            y = torch.tensor(stored["y"], device=device).long()
            nets = []
            for seed in range(request["num_seeds"]):
                torch.manual_seed(seed)
                net = torch_network(kind, request["size"], SHAPES[kind]).to(device)
                if request["keep"] is not None:
                    prune_torch(net, request["keep"])
                nets.append((net, torch.optim.SGD(net.parameters(), request["rate"], momentum=0.9)))
        begun = time.perf_counter()
        for net, optimizer in nets:
            order = torch.randperm(len(y), device=device)
            for start in range(0, len(y), batch):
                rows = order[start : start + batch]
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps(time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
