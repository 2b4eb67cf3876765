"""Processes that work together in the tests; importing it costs what they need."""

import multiprocessing
import os
import socket
from typing import Any

import torch
import torch.distributed as dist

from golf.system.distributed import World, WorldError


def _process(rank: int, size: int, port: int, results: Any, function: Any, arguments: tuple) -> None:
    torch.set_num_threads(1)
    world = World(rank, size, rank, size)
    store = dist.TCPStore("127.0.0.1", port, size, is_master=world.is_first)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found = function(world, *arguments)
    dist.barrier()
    if rank == size - 1:
        results.put((rank, found))
        results.close()
        results.join_thread()
        os._exit(1)
    try:
        world.all_reduce_any(0.0, False)
    except WorldError as error:
        found["lost"] = str(error)
    results.put((rank, found))


def run_together(function: Any, size: int, *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` gives in each of `size` new processes, in the order of ranks.

    The last one then dies, and the others note as `lost` what they learn of it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, size, port, results, function, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return [found[rank] for rank in range(size)]
