"""One process of a group: ``python -m shoal.training.distributed.worker FOLDER``.

Rank, number of workers and where they meet come from the environment, by the names that torchrun
gives them, so torchrun can start it as well.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

__all__ = ["main", "work"]


def main() -> None:
    """Fit as the folder's job says; the first worker writes the result beside it."""
    folder = Path(sys.argv[1])
    alive = os.environ.get("SHOAL_ALIVE")
    if alive:
        threading.Thread(target=_follow, args=(int(alive),), daemon=True).start()
    try:
        work(folder)
    except BaseException as error:  # noqa: BLE001 (whoever started the group tells the person)
        said = {
            "type": type(error).__name__,
            "text": str(error),
            "trace": traceback.format_exc()[-4000:],
        }
        rank = os.environ.get("RANK", "0")
        (folder / f"error-{rank}.json").write_text(json.dumps(said), encoding="utf-8")
        sys.stderr.write(said["trace"])
        sys.stderr.flush()
        os._exit(3)  # launch's _RAISED
    os._exit(0)  # libraries' threads that wait for other workers must not hold this one up


def _follow(fd: int) -> None:
    """End with the process that started this one: its end of the pipe closes, however it ends."""
    os.read(fd, 1)
    os._exit(4)


def work(folder: Path) -> None:
    """Fit one job as one worker.

    Args:
        folder: What `launch` was given: the job, the rows, and where states are saved.
    """
    import cloudpickle

    from shoal.models.codecs import Encoder
    from shoal.training.distributed.learners import Context, Transformed, learn
    from shoal.training.distributed.rows import MappedRows

    rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    path = json.loads((folder / "path.json").read_text(encoding="utf-8"))
    sys.path[:] = [*path, *(p for p in sys.path if p not in path)]
    # Our own parent wrote this file a moment ago, into a folder that only this user can read.
    job = cloudpickle.loads((folder / "job").read_bytes())
    # First the group, then the model: TensorFlow cannot join a cluster once it has computed.
    with _meeting(job["kind"], rank, workers) as add:
        estimator = job["build"]()
        steps = getattr(estimator, "steps", None)
        last = steps[-1][1] if steps else estimator
        context = Context(
            rank=rank,
            workers=workers,
            seed=job["seed"],
            classes=job["classes"],
            folder=folder / "saved",
            report=_reporter(rank),
            add=add,
        )
        rows = MappedRows(folder / "rows.arrow", 0, job["rows"])
        learn(last, Transformed(rows, job["steps"]), context)
    if rank == 0:
        encoded = Encoder(pickle=job["trust_pickle"]).encode(last)
        part = folder / "result.part"
        part.write_bytes(encoded.template.encode() + b"\0" + encoded.state)
        part.replace(folder / "result")


def _reporter(rank: int) -> Any:
    told = os.environ.get("SHOAL_ALIVE_OUT")

    def report(epoch: int) -> None:
        if rank == 0 and told:
            os.write(int(told), f"{epoch}\n".encode())

    return report


class _meeting:  # noqa: N801 (used as a function)
    """The group of a library, for as long as it is fitted; gives what adds arrays up."""

    def __init__(self, kind: str, rank: int, workers: int) -> None:
        self._kind, self._rank, self._workers = kind, rank, workers
        self._close: Any = None

    def __enter__(self) -> Any:
        if self._kind == "keras":
            import tensorflow as tf

            from shoal.training.distributed.tensors import collective_add

            tf.config.experimental.enable_op_determinism()
            return collective_add(self._workers)
        if self._kind == "xgboost":
            from xgboost import collective

            if self._workers > 1:
                collective.init(**json.loads(os.environ["SHOAL_TRACKER"]))
                self._close = collective.finalize
            return self._sum_boosters
        if self._kind != "torch":
            return lambda values: values
        import torch
        import torch.distributed as dist

        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, init_method=os.environ.get("SHOAL_RENDEZVOUS", "env://"),
            rank=self._rank, world_size=self._workers,
        )  # fmt: skip
        self._close = dist.destroy_process_group
        return self._sum_torch

    def __exit__(self, *error: object) -> None:
        if self._close is not None and error[0] is None:
            self._close()

    @staticmethod
    def _sum_torch(values: Any) -> Any:
        import torch
        import torch.distributed as dist

        tensor = torch.as_tensor(values).clone()
        dist.all_reduce(tensor)
        return tensor.numpy()

    def _sum_boosters(self, values: Any) -> Any:
        from xgboost import collective

        return collective.allreduce(values, collective.Op.SUM) if self._workers > 1 else values


if __name__ == "__main__":
    main()
