"""What the machine suggests: data type, attention, compiled blocks, threads, tokens in a pass; each with its reason."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from innerpo.config.run import ModelConfig
from innerpo.errors import UserError
from innerpo.model.forward.blocks import decoder_blocks, forward_replaced, text_config
from innerpo.model.forward.masks import FLEX

# Compiling decoder blocks took 89 s on one CPU core (measured); in a prototype with bfloat16 units they then saved half
# a second to a second of a step of 8 pairs. Below this number of steps they do not win the time back.
COMPILE_STEPS = 200
# Of 170, 340, 680 and 1360 tokens a pass 680 was the fastest on a CPU, by 1 to 10 %; on CUDA memory decides, in bounds.
CPU_MICRO_BATCH_TOKENS = 1024
CUDA_MICRO_BATCH_TOKENS = (2048, 32768)
# Half types, and the processor features by one of which a CPU multiplies them (x86, ARM).
CPU_UNITS = {
    torch.bfloat16: frozenset({"amx_bf16", "avx512_bf16", "bf16"}),
    torch.float16: frozenset({"amx_fp16", "avx512_fp16", "asimdhp"}),
}
# Bytes kept free on CUDA for logits of a chunk and the library's own use.
CUDA_RESERVE = 1.5e9


@dataclass(frozen=True)
class Choice:
    """Something chosen by the program, and why, for the log."""

    value: Any
    reason: str


@cache
def has_units(dtype: torch.dtype, kind: str) -> bool:
    """Whether a kind of device ("cpu", "cuda") here multiplies a half type in hardware."""
    if kind != "cpu":
        if dtype != torch.bfloat16:
            return True
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and not CPU_UNITS[dtype].isdisjoint(cpu.read_text().split())


def multiplies_in_float32(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrix products of this type are computed in float32 (products.py): a CPU without units for it."""
    return device.type == "cpu" and dtype in CPU_UNITS and not has_units(dtype, "cpu")


def choose_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the type of the base weights: as configured, or by the hardware; full fine-tuning wants float32."""
    if config.dtype != "auto":
        named: torch.dtype = getattr(torch, config.dtype)
        return named
    return torch.bfloat16 if has_units(torch.bfloat16, device.type) and config.lora_r > 0 else torch.float32


def choose_attention(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Choice:
    """Return the attention implementation (None: the model's own default).

    On a CPU in half precision the flash kernel is slow: its backward pass took 36 % of a step in a prototype with
    bfloat16 units, and sdpa made a step half as long again as eager here, without. In float32 the two are alike
    (measured here), and sdpa keeps no attention matrix.
    """
    if config.attention == FLEX and device.type == "cpu":
        raise UserError(
            "model.attention=flex_attention has no backward pass on a CPU in torch; use sdpa or eager there"
        )
    if config.attention != "auto":
        return Choice(config.attention, "as asked for")
    if device.type == "cpu" and dtype in CPU_UNITS:
        return Choice("eager", "faster than sdpa on a CPU in half precision")
    return Choice(None, "the default")


def choose_compile(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, steps: int, hooked: bool = False
) -> Choice:
    """Return whether decoder blocks are compiled for a training of so many steps.

    ``hooked`` says that the method has hooks on modules inside blocks. Compiled code would skip them unseen (torch does
    not look whether a submodule's hooks changed), so such a method is not compiled; UserError where that is asked for.
    """
    if hooked and config.compile == "on":
        raise UserError("model.compile=on would skip the hooks of this method's site or projbp inside blocks; use off")
    if hooked:
        return Choice(False, "the method reads or edits inside blocks")
    if multiplies_in_float32(dtype, device):
        if config.compile == "on":
            raise UserError(
                f"model.compile=on does not go with {dtype} on a CPU without units for it; use float32 or off"
            )
        return Choice(False, "this CPU multiplies halves through float32, which compiled code would not")
    if config.compile != "auto":
        return Choice(config.compile == "on", "as asked for")
    if device.type == "cpu" and dtype == torch.float32:
        return Choice(False, "in float32 on a CPU matrix products take nearly all the time")
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return Choice(False, "there is no C++ compiler")
    if device.type != "cpu":
        return Choice(False, "what it gains there has not been measured; model.compile=on tries it")
    return Choice(steps >= COMPILE_STEPS, f"{steps} steps; it takes {COMPILE_STEPS} to win back the time it costs")


def choose_micro_batch_tokens(wanted: int, model: nn.Module) -> Choice:
    """Return the most padded tokens of one forward and backward pass: by free memory on CUDA, a fixed size on a CPU."""
    if wanted:
        return Choice(wanted, "as asked for")
    if not torch.cuda.is_available():
        return Choice(CPU_MICRO_BATCH_TOKENS, "CPU")
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch has it, and gives it again
    free = torch.cuda.mem_get_info()[0] + unused
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    room = free - 12 * trained - CUDA_RESERVE  # gradients and the optimiser's two states, in float32
    low, high = CUDA_MICRO_BATCH_TOKENS
    tokens = int(0.5 * room / activation_bytes(model))
    return Choice(max(low, min(high, tokens)), f"{free / 2**30:.0f} GiB of GPU memory free")


def activation_bytes(model: nn.Module) -> int:
    """Return about how many bytes one token's activations take for a LoRA backward pass.

    6 states and 4 MLP widths a block (inputs of the linear maps and of the gate, query, key, value) in the model's
    type, 2 states (norms) in float32; with 4-bit weights also peft's float32 copies of the linear maps' inputs.
    """
    config = text_config(model)
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    size = next(p for p in model.parameters() if p.is_floating_point()).element_size()
    floats = 2 * config.hidden_size
    if getattr(config, "quantization_config", None) is not None:
        floats += 4 * config.hidden_size + wide
    return int(config.num_hidden_layers * ((6 * config.hidden_size + 4 * wide) * size + 4 * floats))


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[None]:
    """Compile every decoder block while this is on, for any number of tokens (at its first pass, by a C++ compiler).

    The forward function is compiled and not the module, so that hooks that read states stay outside.
    """
    torch._dynamo.reset()  # what was compiled before may have had other hooks
    with ExitStack() as stack:
        for block in decoder_blocks(model):
            stack.enter_context(forward_replaced(block, torch.compile(block.forward, dynamic=True)))
        yield


def limit_threads(wanted: int) -> Choice:
    """Set torch's CPU threads: as asked for, else no more than the container's share of the processors."""
    before = torch.get_num_threads()
    quota = cpu_quota()
    if wanted:
        choice = Choice(wanted, "as asked for")
    elif quota is not None and quota < before:
        choice = Choice(max(1, int(quota)), f"the container may use {quota:g} processors")
    else:
        choice = Choice(before, "torch's choice")
    if choice.value != before:
        torch.set_num_threads(choice.value)
    return choice


def cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Return how many processors the control group may use (cgroup v2); None where nothing limits it."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
