"""Choices by hardware, each with its reason: data type, attention, compiled blocks, threads, tokens per micro-batch."""

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

from innerpo.config.model import ModelConfig
from innerpo.errors import UserError
from innerpo.model.forward.blocks import decoder_blocks, forward_replaced, text_config
from innerpo.model.forward.masks import FLEX

# On one CPU core with bfloat16 units compiling decoder blocks took 57 s (12 s where torch's disk cache held them) and
# then saved .35 s of a step of 1.9 s (measured). With fewer steps than this, compiling costs more time than it saves.
COMPILE_STEPS = 200
# Of 170, 340, 680 and 1360 tokens per micro-batch 680 was fastest on a CPU, by 1 to 10 %; on CUDA it depends on memory.
CPU_MICRO_BATCH_TOKENS = 1024
CUDA_MICRO_BATCH_TOKENS = (2048, 32768)
# Half-precision types, and the processor flags (x86, ARM) any of which means hardware units for their products.
CPU_UNITS = {
    torch.bfloat16: frozenset({"amx_bf16", "avx512_bf16", "bf16"}),
    torch.float16: frozenset({"amx_fp16", "avx512_fp16", "asimdhp"}),
}
# Bytes left free on CUDA for the logits of a chunk and for libraries.
CUDA_RESERVE = 1.5e9


@dataclass(frozen=True)
class Choice:
    """An automatic choice, and its reason for the log."""

    value: Any
    reason: str


@cache
def has_units(dtype: torch.dtype, kind: str) -> bool:
    """Whether this machine's ``kind`` of device ("cpu", "cuda") has hardware units for a half-precision type."""
    if kind != "cpu":
        if dtype != torch.bfloat16:
            return True
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and not CPU_UNITS[dtype].isdisjoint(cpu.read_text().split())


def multiplies_in_float32(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrix products of this type are computed in float32 (half_matmul.py): a CPU without units for it."""
    return device.type == "cpu" and dtype in CPU_UNITS and not has_units(dtype, "cpu")


def choose_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the type of the base weights: as configured, else by hardware; float32 for full fine-tuning."""
    if config.dtype != "auto":
        named: torch.dtype = getattr(torch, config.dtype)
        return named
    return torch.bfloat16 if has_units(torch.bfloat16, device.type) and config.lora_r > 0 else torch.float32


def choose_attention(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Choice:
    """Return the attention implementation (None: the model's own default).

    On a CPU in half precision sdpa's flash kernel is slow: its backward pass took 36 % of a step in a prototype on a
    CPU with bfloat16 units, and without units a step took 1.5 times as long as with eager. In float32 both take the
    same time (measured), and sdpa stores no attention matrix. Raises UserError for flex attention on a CPU.
    """
    if config.attention == FLEX and device.type == "cpu":
        raise UserError(
            "model.attention=flex_attention has no backward pass on a CPU in torch; use sdpa or eager there"
        )
    if config.attention != "auto":
        return Choice(config.attention, "set by model.attention")
    if device.type == "cpu" and dtype in CPU_UNITS:
        return Choice("eager", "faster than sdpa on a CPU in half precision")
    return Choice(None, "the model's default")


def choose_compile(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, steps: int, hooked: bool = False
) -> Choice:
    """Return whether decoder blocks are compiled for a training run of ``steps`` optimiser steps.

    ``hooked``: the method has hooks on modules inside blocks. Compiled code would skip them silently (torch does not
    check whether a submodule's hooks changed), so blocks are then not compiled. Raises UserError if model.compile=on
    cannot be done.
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
        return Choice(False, "this CPU multiplies half-precision matrices in float32, which compiled code would not do")
    if config.compile != "auto":
        return Choice(config.compile == "on", "set by model.compile")
    if device.type == "cpu" and dtype == torch.float32:
        return Choice(
            False, "in float32 on a CPU matrix products take nearly all the time, and compiling does not speed them up"
        )
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return Choice(False, "there is no C++ compiler")
    if device.type != "cpu":
        return Choice(False, "the gain on this device has not been measured; set model.compile=on to try")
    return Choice(steps >= COMPILE_STEPS, f"{steps} steps; compiling pays off from {COMPILE_STEPS} steps")


BYTES_OF_TRAINING = 12
"""Bytes beside each trained parameter: a float32 gradient and two optimiser states."""


def choose_micro_batch_tokens(wanted: int, model: nn.Module, taken: int | None = None) -> Choice:
    """Return the most padded tokens of a micro-batch: by free memory on CUDA, a constant on a CPU.

    ``taken``: bytes of the free ones that training takes before its first step, where the model is a shape alone; else
    those of the gradients and the optimiser of the parameters that it trains.
    """
    if wanted:
        return Choice(wanted, "set by data.micro_batch_tokens")
    if not torch.cuda.is_available():
        return Choice(CPU_MICRO_BATCH_TOKENS, "CPU")
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # reserved by torch, available for reuse
    free = torch.cuda.mem_get_info()[0] + unused
    if taken is None:
        taken = BYTES_OF_TRAINING * sum(p.numel() for p in model.parameters() if p.requires_grad)
    room = free - taken - CUDA_RESERVE
    low, high = CUDA_MICRO_BATCH_TOKENS
    tokens = int(0.5 * room / activation_bytes(model))
    return Choice(max(low, min(high, tokens)), f"{free / 2**30:.0f} GiB of GPU memory free")


def activation_bytes(model: nn.Module) -> int:
    """Return an estimate of the bytes of activations per token that a LoRA backward pass needs.

    Per block: 6 hidden states and 4 MLP-wide vectors in the model's type (inputs of the linear maps and of the gate;
    query, key, value), 2 hidden states in float32 (norms); with 4-bit weights also peft's float32 copies of the
    inputs of the linear maps.
    """
    config = text_config(model)
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    size = next(p for p in model.parameters() if p.is_floating_point()).element_size()
    floats = 2 * config.hidden_size
    if getattr(config, "quantization_config", None) is not None:
        floats += 4 * config.hidden_size + wide
    return int(config.num_hidden_layers * ((6 * config.hidden_size + 4 * wide) * size + 4 * floats))


@contextmanager
def compiled_blocks(model: nn.Module, first: int = 0) -> Iterator[None]:
    """Compile the decoder blocks from ``first`` on inside the context, with dynamic shapes, at the first forward pass.

    Those before the first that is trained carry no gradient; torch (2.13) fails to compile them under checkpointing.
    The forward function is compiled and not the module, so that hooks that read states stay outside compiled code.
    What a backward pass needs is kept until the graph is dropped, since gradient shares (training/shares.py) go back
    over it once a term; torch would overwrite it ("donated buffers") and refuse the second time. The tag keeps this
    code apart from what is in torch's disk cache, whose keys leave donation out (2.13): code that overwrites, found
    there, gave wrong gradients the second time without a word.
    """
    torch._dynamo.reset()  # earlier compilations may have had other hooks
    with ExitStack() as stack:
        stack.enter_context(torch._functorch.config.patch(donated_buffer=False))
        tag = f"{torch.compiler.config.cache_key_tag} no donated buffers"
        stack.enter_context(torch.compiler.config.patch(cache_key_tag=tag))  # type: ignore[attr-defined]
        for block in decoder_blocks(model)[first:]:
            stack.enter_context(forward_replaced(block, torch.compile(block.forward, dynamic=True)))
        yield


def limit_threads(wanted: int) -> Choice:
    """Set torch's CPU threads to ``wanted``; if that is 0, to at most the container's CPU quota."""
    before = torch.get_num_threads()
    quota = cpu_quota()
    if wanted:
        choice = Choice(wanted, "set by model.threads")
    elif quota is not None and quota < before:
        choice = Choice(max(1, int(quota)), f"the container's quota is {quota:g} processors")
    else:
        choice = Choice(before, "torch's default")
    if choice.value != before:
        torch.set_num_threads(choice.value)
    return choice


def cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Return the CPU quota of the control group (cgroup v2) in processors; None if there is no limit."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
