"""A pretend accelerator on a machine without one: finds device mistakes, nothing else (no speed, no kernels).

`with pretend("mps", float64=False) as device:` makes torch take `device` ("mps:0", or "cuda:0") wherever it takes a
device. A tensor on it keeps its numbers on the CPU behind a wrapper that says so and is as strict as hardware about:
  * an operation that mixes it with a CPU tensor of one axis or more raises what torch raises
    (indexing it with CPU indices is allowed, as it is on hardware);
  * a CPU generator cannot draw on it;
  * `.numpy()` and numpy's conversions raise;
  * with float64=False no float64 tensor can come to be on it (Apple's limit).
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

KINDS = {"mps": torch.device("mps", 0), "cuda": torch.device("cuda", 0)}
accelerator = KINDS["mps"]  # which `pretend` sets
LIMIT = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
    " Please use float32 instead."
)
allow_float64 = True
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor}
COPYING = {aten._to_copy.default, aten.copy_.default}


def is_there(device):
    return device is not None and torch.device(device).type == accelerator.type


class There(torch.Tensor):
    @staticmethod
    def __new__(cls, raw):
        if raw.dtype == torch.float64 and not allow_float64:
            raise TypeError(LIMIT)
        return torch.Tensor._make_wrapper_subclass(  # for autograd's sake it is a CPU tensor
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device="cpu",
            requires_grad=raw.requires_grad,
        )

    def __init__(self, raw):
        self.raw = raw

    device = property(lambda self: accelerator)
    is_cpu, is_mps = property(lambda self: False), property(lambda self: accelerator.type == "mps")
    is_cuda = property(lambda self: accelerator.type == "cuda")

    def get_device(self):
        return 0

    def __repr__(self, **options):
        return f"There({self.raw!r})"

    def __format__(self, spec):
        return format(self.raw.detach(), spec)

    def to(self, *args, **kwargs):
        memory_format, copy = kwargs.pop("memory_format", None), kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            device, dtype = args[0].device, args[0].dtype
        else:
            device, dtype, _, found = torch._C._nn._parse_to(*args, **kwargs)
            memory_format = memory_format or found
        device, dtype = device or accelerator, dtype or self.dtype
        if is_there(device) and dtype == self.dtype and memory_format is None and not copy:
            return self
        options = {"memory_format": memory_format} if memory_format else {}
        return aten._to_copy.default(self, dtype=dtype, device=device, **options)

    def cpu(self, *args, **kwargs):
        return self.to("cpu")

    def numpy(self, *args, **kwargs):
        raise TypeError(
            f"can't convert {accelerator} device type tensor to numpy."
            " Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def tolist(self):
        return self.raw.tolist()

    def untyped_storage(self):  # which safetensors asks for its address, to find tensors that share memory
        return self.raw.untyped_storage()

    def data_ptr(self):
        return self.raw.data_ptr()

    def __reduce_ex__(self, protocol):
        return self.raw.detach().__reduce_ex__(protocol)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def dispatch(func, args, kwargs):
    there, here = [], []

    def look(x):
        (there if isinstance(x, There) else here).append(x) if isinstance(x, torch.Tensor) else None

    tree_map(look, (args, kwargs))
    wants = kwargs.get("device")
    goes_there = is_there(wants) if wants is not None and func in COPYING else is_there(wants) or bool(there)
    mixed = bool(there) and any(x.ndim for x in here) and func not in COPYING
    if mixed and not (func in INDEXING and isinstance(args[0], There)):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices,"
            f" {accelerator} and cpu! ({func})"
        )
    generator = kwargs.get("generator")
    if goes_there and generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a '{accelerator.type}' device type for generator but found 'cpu'")
    if goes_there and not allow_float64 and kwargs.get("dtype") == torch.float64:
        raise TypeError(LIMIT)
    kwargs = {k: (torch.device("cpu") if k == "device" and v is not None else v) for k, v in kwargs.items()}
    raw_args, raw_kwargs = tree_map(lambda x: x.raw if isinstance(x, There) else x, (args, kwargs))
    out = func(*raw_args, **raw_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not goes_there:
        return out
    wrap = lambda x: There(x) if isinstance(x, torch.Tensor) and not isinstance(x, There) else x  # noqa: E731
    return return_and_correct_aliasing(func, args, kwargs, tree_map(wrap, out))


class Made(TorchFunctionMode):
    """What the wrapper, a CPU tensor to C++, would get wrong: it is done on the CPU, and the outcome moved.

    torch.tensor fills memory by itself; quantile makes masks where C++ says that its input is; x.to(other) looks at
    other's device in C++.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.quantile, torch.Tensor.quantile) and isinstance(args[0], There):
            return There(func(*tree_map(lambda x: x.raw if isinstance(x, There) else x, args), **kwargs))
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], There) and not isinstance(args[0], There):
            return args[0].to(device=accelerator, dtype=args[1].dtype)
        if func is not torch.tensor:
            return func(*args, **kwargs)
        args = tree_map(lambda x: x.raw if isinstance(x, There) else x, args)
        wants_grad, device = kwargs.pop("requires_grad", False), kwargs.pop("device", None)
        made = func(*args, **kwargs, device="cpu" if is_there(device) else device)
        return (made.to(device) if is_there(device) else made).requires_grad_(wants_grad)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return dispatch(func, args, kwargs) if is_there(kwargs.get("device")) else func(*args, **kwargs)


@contextlib.contextmanager
def pretend(kind="mps", float64=True):
    """An accelerator of this kind, "mps" or "cuda", with or without float64."""
    global allow_float64, accelerator
    allow_float64, accelerator = float64, KINDS[kind]
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    asked = {
        "_lazy_init": lambda: None,  # a tensor made on "cuda" asks for the driver first
        "get_device_name": lambda *_: "pretend card",
        "max_memory_allocated": lambda *_: 0,
        "is_bf16_supported": lambda **_: True,
    }
    real = {name: getattr(torch.cuda, name) for name in asked}
    try:
        for name, answer in asked.items() if kind == "cuda" else ():
            setattr(torch.cuda, name, answer)
        with Mode(), Made():
            yield accelerator
    finally:
        for name, answer in real.items():
            setattr(torch.cuda, name, answer)
        torch.__future__.set_overwrite_module_params_on_conversion(before)
