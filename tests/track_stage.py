"""A stage as small as one can be: noise, momentum, a data order, a controller, all of it in the checkpoint.

python track_stage.py FOLDER SAVE_EVERY PAUSE
"""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from handrail.config import Settings
from handrail.track import Run


class Config(Settings):
    steps: int = 10


def main(folder: Path, save_every: int, pause: float) -> None:
    """Prints the number of each step as it begins, and rests for `pause` seconds in it."""
    config = Config()
    with Run.open(folder, "toy", config, {"data": "0"}, save_every) as run:
        if run.finished:
            return
        generator = torch.Generator().manual_seed(0)
        weight, momentum, beta = torch.zeros(50), torch.zeros(50), 0.1
        saved = run.restore()
        if saved:
            weight, momentum = saved.tensors["weight"], saved.tensors["momentum"]
            generator.set_state(saved.tensors["generator"])
            beta = saved.state["beta"]
        for step in range(run.step, config.steps):
            noise = torch.randn(50, generator=generator)
            print(step, flush=True)
            time.sleep(pause)
            momentum = 0.9 * momentum + noise - beta * weight
            weight = weight + 0.1 * momentum
            beta *= 1.1 if float(weight.norm()) > 1 else 0.9
            run.trace(step, {"noise": [noise.tolist()]})
            run.log(step, {"norm": float(weight.norm()), "beta": beta})
            if run.due(step, last=step + 1 == config.steps):
                tensors = {"weight": weight, "momentum": momentum, "generator": generator.get_state()}
                run.save(step + 1, tensors, {"beta": beta})
            run.check()
        (folder / "model").mkdir(exist_ok=True)
        save_file({"weight": weight}, folder / "model/model.safetensors")
        run.finish({"norm": float(weight.norm())})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
