"""Launch Numba kernels by raw pointers: compiled without fused arithmetic, linked to a cubin, started by the CUDA driver.

Numba's own launch describes every array anew, which takes longer than a small kernel. Here a kernel takes pointers and
64-bit integers only, so that a launch is one call of the driver. We link the cubin ourselves: a driver older than the
compiler refuses its PTX, but accepts the machine code of any compiler of its major version.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_int64
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda

try:
    from cuda.bindings import driver, nvjitlink
except ImportError:  # then Numba launches
    driver = nvjitlink = None

THREADS_PER_BLOCK = 128
LEAST_BLOCKS = 128  # Numba warns at every launch of fewer, and an idle block costs next to nothing
SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
INVALID_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT

_preparing = threading.RLock()  # Numba compiles one kernel at a time anyway, and a second load would be in vain


class Kernel:
    """One Python function, compiled for one signature and loaded once per device."""

    def __init__(self, function: Callable[..., None], signature: Any) -> None:
        self._function, self._signature = function, signature
        # Each argument has 8 bytes. The binding copies them for each call, so that threads do not meet in a buffer,
        # and takes half the time for c_int64 that it takes for c_void_p.
        self._types = (c_int64,) * len(signature.args)
        self._loaded: dict[int, Any] = {}  # device: the driver's function, or None where Numba launches
        # Without link-time optimisation, which fuses products with sums whatever NVVM was told.
        without_lto = {} if SIMULATED else {"lto": False}
        self._numba: Any = cuda.jit(function, **without_lto)

    def path(self, device: int) -> str:
        """Which way launches go: "cuda-bindings" or "numba"."""
        return "numba" if self.prepare(device) is None else "cuda-bindings"

    def prepare(self, device: int) -> Any:
        """Compile and load for a device, as the first launch would: before a graph is captured, not within."""
        with _preparing:
            if device not in self._loaded:
                try:
                    self._loaded[device] = None if SIMULATED else self._load(device)
                except Exception as error:  # whatever is missing or too old: Numba may still manage
                    warnings.warn(f"{self._function.__name__} is launched by Numba, slowly: {error}", stacklevel=2)
                    self._loaded[device] = None
            return self._loaded[device]

    def _load(self, device: int) -> Any:
        if driver is None:
            raise ImportError("cuda.bindings cannot be imported")
        with _current(device):
            compiled = compile_cubin(self._function, self._signature, _compute_capability(device))
            module = _check(driver.cuModuleLoadData(compiled.cubin))
            function = _check(driver.cuModuleGetFunction(module, compiled.name.encode()))
            # Lazy loading might leave the code for the first launch, which may be captured; drivers before 12.4 cannot say.
            with suppress(AttributeError, RuntimeError):
                _check(driver.cuFuncLoad(function))
        return function

    def __call__(self, device: int, stream: int, threads: int, *arguments: Any) -> None:
        """Launch at least so many threads; arguments are integers and contiguous tensors of the (current) device."""
        function = self._loaded.get(device) or self.prepare(device)
        blocks = -(-threads // THREADS_PER_BLOCK)
        if not blocks:
            return
        if function is None:
            self._launch_by_numba(stream, blocks, arguments)
            return
        values = tuple([value if type(value) is int else value.data_ptr() for value in arguments])
        call = (function, blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, 0, stream, (values, self._types), 0)
        (status,) = driver.cuLaunchKernel(*call)
        if status == INVALID_CONTEXT:  # a thread, such as autograd's, in which nothing has used the GPU yet
            _check(driver.cuCtxSetCurrent(_primary_context(device)))
            (status,) = driver.cuLaunchKernel(*call)
        if status:
            _check((status,))

    def _launch_by_numba(self, stream: int, blocks: int, arguments: tuple[Any, ...]) -> None:
        flat = [value if type(value) is int else value.reshape(-1) for value in arguments]
        launch_by_numba(self._numba, stream, blocks * THREADS_PER_BLOCK, *flat)


def launch_by_numba(kernel: Any, stream: int, threads: int, *arguments: Any) -> None:
    """Launch a `cuda.jit` kernel, in at least LEAST_BLOCKS blocks, on arrays of the current device and integers."""
    blocks = max(-(-threads // THREADS_PER_BLOCK), LEAST_BLOCKS)
    on_device = [value if isinstance(value, int | np.ndarray) else cuda.as_cuda_array(value, sync=False) for value in arguments]
    with _unfused():  # its first launch compiles
        kernel[blocks, THREADS_PER_BLOCK, cuda.external_stream(stream) if stream else 0](*on_device)


class Compiled(NamedTuple):
    name: str  # in the cubin
    ptx: str
    cubin: bytes
    log: str  # ptxas' remarks


def compile_cubin(function: Callable[..., None], signature: Any, compute_capability: tuple[int, int]) -> Compiled:
    """Compile a kernel for a compute capability; no GPU is needed."""
    with _unfused():
        ptx, _ = cuda.compile_ptx(function, signature, cc=compute_capability)
    (name,) = re.findall(r"\.entry\s+(\w+)", ptx)
    options = ["-arch=sm_{}{}".format(*compute_capability), "-verbose"]
    try:
        return Compiled(name, ptx, *_link(ptx, options))
    except RuntimeError:
        # A linker older than the compiler refuses the number of its PTX; nothing here needs more than CUDA 13.0 has.
        return Compiled(name, ptx, *_link(re.sub(r"(?m)^\.version .*$", ".version 9.0", ptx), options))


class Resources(NamedTuple):
    """What a thread takes: registers, and bytes of slow local memory for local arrays and spills."""

    registers: int
    local_bytes: int


def resources(log: str) -> Resources:
    """From the remarks of ptxas; a function that was not inlined adds a frame of its own."""
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    registers = max(int(count) for count in re.findall(r"Used (\d+) registers", log))
    return Resources(registers, sum(int(count) for frame in frames for count in frame))


@contextmanager
def _unfused() -> Iterator[None]:
    """Have NVVM round each product and sum, as the CPU does: Numba passes no such option on, so we add it."""
    if SIMULATED:
        yield
        return
    from numba.cuda.cudadrv import nvvm

    with _preparing, _older_numpy():
        original = nvvm.compile_ir
        nvvm.compile_ir = partial(original, fma=False)
        try:
            yield
        finally:
            nvvm.compile_ir = original


@contextmanager
def _older_numpy() -> Iterator[None]:
    """With what numba-cuda 0.30 asks NumPy for when it first compiles; NumPy 2.5 has dropped a part, and deprecates another."""
    missing = not hasattr(np, "row_stack")
    if missing:
        vars(np)["row_stack"] = np.vstack
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if missing:
            del vars(np)["row_stack"]


def _link(ptx: str, options: list[str]) -> tuple[bytes, str]:
    handle, code = nvjitlink.create(len(options), options), ptx.encode()
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise RuntimeError(f"{error}: {log.decode().strip(chr(0))}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), log.decode()


@contextmanager
def _current(device: int) -> Iterator[None]:
    """With the device's primary context, which is PyTorch's, and loading allowed even while a graph is captured."""
    _check(driver.cuInit(0))
    _check(driver.cuCtxPushCurrent(_primary_context(device)))
    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = _check(driver.cuThreadExchangeStreamCaptureMode(relaxed))
    try:
        yield
    finally:
        _check(driver.cuThreadExchangeStreamCaptureMode(before))
        _check(driver.cuCtxPopCurrent())


def _primary_context(device: int) -> Any:
    return _check(driver.cuDevicePrimaryCtxRetain(_check(driver.cuDeviceGet(device))))


def _compute_capability(device: int) -> tuple[int, int]:
    prefix = "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_"
    handle = _check(driver.cuDeviceGet(device))
    major, minor = (getattr(driver.CUdevice_attribute, prefix + part) for part in ("MAJOR", "MINOR"))
    return _check(driver.cuDeviceGetAttribute(major, handle)), _check(driver.cuDeviceGetAttribute(minor, handle))


def _check(returned: tuple[Any, ...]) -> Any:
    """What a call of the driver returned besides its status, or an error with the status' name."""
    status, *values = returned
    if status:
        raise RuntimeError(f"the CUDA driver returned {status!r}")
    return values[0] if values else None
