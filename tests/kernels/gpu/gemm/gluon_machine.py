"""A Hopper multiprocessor on numpy, for warp-specialized Gluon kernels, which no interpreter runs.

Each warp or warp group is a thread of which one runs at a time, and whoever comes next is drawn by
lot. Copies by TMA land, or read, at any later moment; until then their target holds noise. What a
barrier fails to order shows as a wrong result, and what waits for ever as a deadlock.
"""

from __future__ import annotations

import builtins
import random
import threading
import traceback
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
from triton.runtime.jit import JITFunction


class Aborted(Exception):
    """Ends the other threads once one has failed."""


class Machine:
    """One block of threads, ``program`` of ``num_programs``."""

    def __init__(self, seed: int, program: int, num_programs: int) -> None:
        self.lots = random.Random(seed)
        self.program, self.num_programs = program, num_programs
        self.copies: list[Callable[[], None]] = []
        self.threads: list[Worker] = []
        self.turn = threading.Condition()
        self.current: Worker | None = None
        self.error = ""

    def run(self, jobs: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        self.haste = self.lots.choice([0.1, 0.5, 0.9])  # how likely a copy lands first
        self.threads = [Worker(self, job, arguments) for job, arguments in jobs]
        for thread in self.threads:
            thread.start()
        with self.turn:
            self.pass_on()
        for thread in self.threads:
            thread.join()
        while self.copies and not self.error:
            self.land(0)
        if self.error:
            raise AssertionError(self.error)

    def step(self, is_ready: Callable[[], bool] = lambda: True) -> None:
        """Let others run, until ``is_ready``."""
        worker = threading.current_thread()
        if isinstance(worker, Worker):
            with self.turn:
                worker.is_ready = is_ready
                self.pass_on()
                self.turn.wait_for(lambda: self.current is worker or self.error)
            if self.error:
                raise Aborted

    def pass_on(self) -> None:
        """Let copies land or choose the next thread. The caller holds ``turn``."""
        self.current = None
        while self.current is None:
            ready = [worker for worker in self.threads if worker.is_ready()]
            if self.copies and (not ready or self.lots.random() < self.haste):
                self.land(self.lots.randrange(len(self.copies)))
            elif ready:
                self.current = self.lots.choices(ready, [worker.pace for worker in ready])[0]
            else:
                break
        waiting = [worker.name for worker in self.threads if not worker.is_done]
        if self.current is None and waiting and not self.error:
            self.error = f"deadlock: {waiting}"
        self.turn.notify_all()

    def land(self, index: int) -> None:
        try:
            self.copies.pop(index)()
        except AssertionError:
            self.error = self.error or traceback.format_exc()


class Worker(threading.Thread):
    def __init__(self, machine: Machine, job: Callable[..., None], arguments: tuple[Any, ...]):
        super().__init__(name=job.__name__, daemon=True)
        self.machine, self.job, self.arguments = machine, job, arguments
        self.is_done, self.stores = False, 0
        self.is_ready = lambda: True
        self.pace = machine.lots.choice([0.05, 1, 5])

    def run(self) -> None:
        machine = self.machine
        with machine.turn:
            machine.turn.wait_for(lambda: machine.current is self or machine.error)
        try:
            if not machine.error:
                self.job(*self.arguments)
        except Aborted:
            pass
        except BaseException:
            machine.error = machine.error or traceback.format_exc()
        with machine.turn:
            self.is_done, self.is_ready = True, lambda: False
            machine.pass_on()


class Array(np.ndarray):
    """A tensor in registers."""

    type = SimpleNamespace(layout=None)

    def to(self, dtype: Any) -> Array:
        return array(self.astype(dtype))


def array(values: Any) -> Array:
    return np.asarray(values).view(Array)


class Pointer:
    def __init__(self, memory: np.ndarray, place: Any = 0) -> None:
        self.memory, self.place = memory, np.asarray(place)

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.place + offset)


class Descriptor:
    """What TMA moves, a block at a time: zeros, and nothing stored, past the ends."""

    layout = None

    def __init__(self, memory: np.ndarray, block: list[int]) -> None:
        self.memory, self.block_shape, self.dtype = memory, block, memory.dtype

    def part(self, start: list[int]) -> np.ndarray:
        ends = zip(start, self.block_shape, strict=True)
        return self.memory[tuple(slice(begin, begin + size) for begin, size in ends)]

    def read(self, start: list[int]) -> np.ndarray:
        block, part = np.zeros(self.block_shape, self.dtype), self.part(start)
        block[tuple(map(slice, part.shape))] = part
        return block

    def write(self, start: list[int], block: np.ndarray) -> None:
        part = self.part(start)
        part[...] = block[tuple(map(slice, part.shape))]


class Barrier:
    count = pending = in_flight = phase = 0

    def arrive(self, count: int, num_bytes: int = 0) -> None:
        self.pending -= count
        self.in_flight += num_bytes
        assert self.pending >= 0, "more arrivals than the barrier expects"
        if self.pending == 0 and self.in_flight == 0:
            self.phase, self.pending = self.phase ^ 1, self.count


class Shared:
    """Shared memory, or barriers in it."""

    def __init__(self, machine: Machine, memory: np.ndarray) -> None:
        self.machine, self.memory, self.shape = machine, memory, memory.shape

    @property
    def barrier(self) -> Barrier:
        return self.memory.item()

    def index(self, place: int) -> Shared:
        assert 0 <= place < len(self.memory), "past the end of shared memory"
        return Shared(self.machine, self.memory[int(place)])

    def slice(self, start: int, length: int, dim: int) -> Shared:
        assert dim == 0
        return Shared(self.machine, self.memory[start : start + length])

    def permute(self, order: list[int]) -> Shared:
        return Shared(self.machine, self.memory.transpose(order))

    def load(self, _layout: object) -> Array:
        self.machine.step()
        return array(self.memory.copy())

    def store(self, values: Array) -> None:
        assert (values.shape, values.dtype) == (self.memory.shape, self.memory.dtype)
        self.machine.step()
        self.memory[...] = values


class Product:
    """``acc`` and the products on their way to it."""

    def __init__(self, acc: Any, a: Array, b: Shared) -> None:
        before = acc.factors if isinstance(acc, Product) else []
        self.acc = acc.acc if isinstance(acc, Product) else acc
        self.factors = [*before, (a, b)]

    def finish(self) -> Array:
        products = (a.astype(np.float64) @ b.memory.astype(np.float64) for a, b in self.factors)
        return array(self.acc + sum(products).astype(np.int32))


def interpreted(kernel: JITFunction, machine: Machine, **replaced: Any) -> Callable[..., None]:
    """``kernel`` as Python that runs on ``machine``, and so is all that it calls, but for what is
    ``replaced``: functions of inline assembly.
    """
    names = language(machine) | {"__builtins__": builtins} | replaced

    def convert(function: JITFunction) -> FunctionType:
        converted = FunctionType(function.fn.__code__, names, function.fn.__name__)
        names.setdefault(function.fn.__name__, converted)
        for name, value in function.fn.__globals__.items():
            if isinstance(value, JITFunction) and name not in names:
                names[name] = convert(value)
            elif hasattr(value, "value"):
                names.setdefault(name, value.value)
            else:
                names.setdefault(name, value)
        return converted

    return convert(kernel)


def language(machine: Machine) -> dict[str, Any]:
    """What a kernel calls of ``gluon.language`` and imports from it for Hopper."""

    def allocate(dtype: Any, shape: list[int], _layout: object) -> Shared:
        if dtype is np.int64:
            barriers = [[Barrier()] for _ in range(shape[0])]
            return Shared(machine, np.array(barriers))
        noise = machine.lots.randbytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return Shared(machine, np.frombuffer(noise, dtype).reshape(shape).copy())

    def load(pointer: Pointer, mask: Any = True, other: Any = 0, cache_modifier: str = "") -> Array:
        machine.step()
        values = pointer.memory[np.where(mask, pointer.place, 0)]
        return array(np.where(mask, values, values.dtype.type(other)))

    def store(pointer: Pointer, values: Any) -> None:
        machine.step()
        pointer.memory[pointer.place] = values

    def atomic_add(pointer: Pointer, value: int, sem: str) -> Array:
        machine.step()
        before = pointer.memory[pointer.place]
        pointer.memory[pointer.place] += value
        return array(before)

    def init(barrier: Shared, count: int) -> None:
        barrier.barrier.count = barrier.barrier.pending = count

    def wait(barrier: Shared, phase: int) -> None:
        assert barrier.barrier.count, "a barrier that nobody has set up"
        machine.step(lambda: barrier.barrier.phase != phase)

    def arrive(barrier: Shared, count: int) -> None:
        machine.step()
        barrier.barrier.arrive(count)

    def expect(barrier: Shared, num_bytes: int) -> None:
        machine.step()
        barrier.barrier.arrive(1, num_bytes)

    def fetch(source: Descriptor, start: list[int], barrier: Shared, target: Shared) -> None:
        memory = target.memory
        assert (memory.shape, memory.dtype) == (tuple(source.block_shape), source.dtype)
        machine.step()
        noise = machine.lots.randbytes(memory.nbytes)
        memory[...] = np.frombuffer(noise, memory.dtype).reshape(memory.shape)

        def land() -> None:
            memory[...] = source.read(start)
            barrier.barrier.arrive(0, -memory.nbytes)

        machine.copies.append(land)

    def store_block(target: Descriptor, start: list[int], source: Shared) -> None:
        worker = threading.current_thread()
        worker.stores += 1

        def land() -> None:
            target.write(start, source.memory)
            worker.stores -= 1

        machine.copies.append(land)
        machine.step()

    def store_wait(pending: int) -> None:
        worker = threading.current_thread()
        machine.step(lambda: worker.stores <= pending)

    def product_wait(_pending: int, deps: list[Any]) -> list[Any]:
        machine.step()
        return [dep.finish() if isinstance(dep, Product) else dep for dep in deps]

    def no_layout(*_: object) -> None:
        return None

    return {
        "range": lambda *bounds: map(array, range(*map(int, bounds))),
        "mbarrier": SimpleNamespace(
            MBarrierLayout=no_layout, init=init, wait=wait, arrive=arrive, expect=expect
        ),
        "tma": SimpleNamespace(store_wait=store_wait),
        "async_load": fetch,
        "async_store": store_block,
        "thread_barrier": machine.step,
        "warpgroup_mma": lambda a, b, acc, is_async: Product(acc, a, b),
        "warpgroup_mma_wait": product_wait,
        "fence_async_shared": lambda: None,
        "gdc_wait": lambda: None,
        "gdc_launch_dependents": lambda: None,
        "gl": SimpleNamespace(
            uint8=np.uint8,
            int8=np.int8,
            int32=np.int32,
            int64=np.int64,
            float32=np.float32,
            NVMMADistributedLayout=no_layout,
            DotOperandLayout=no_layout,
            SliceLayout=no_layout,
            static_range=range,
            minimum=min,
            maximum=max,
            program_id=lambda axis: array(machine.program),
            num_programs=lambda axis: machine.num_programs,
            allocate_shared_memory=allocate,
            warp_specialize=lambda jobs, warps, registers: machine.run(jobs),
            arange=lambda start, end, layout: array(np.arange(start, end)),
            zeros=lambda shape, dtype, layout: array(np.zeros(shape, dtype)),
            expand_dims=lambda x, axis: array(np.expand_dims(x, axis)),
            reshape=np.reshape,
            permute=np.transpose,
            convert_layout=lambda x, layout, assert_trivial: x,
            split=lambda x: (x[..., 0], x[..., 1]),
            join=lambda x, y: array(np.stack([x, y], -1)),
            load=load,
            store=store,
            atomic_add=atomic_add,
        ),
        "tl": SimpleNamespace(exp=np.exp),
    }
