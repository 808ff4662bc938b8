"""cli.py with FSDP on a CPU, where torch can shard and accelerate leaves its FSDP plugin out.

test_distributed.py starts it as each process's program. But for that one choice of accelerate's, all is as on GPUs.
"""

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from innerpo.cli.verbs import entry

partial_state, accelerator_state = PartialState.__init__, AcceleratorState.__init__


def processes_as_of_fsdp(self: PartialState, *args: Any, **kwargs: Any) -> None:
    partial_state(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP


def with_plugin(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    accelerator_state(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin


if __name__ == "__main__":
    PartialState.__init__, AcceleratorState.__init__ = processes_as_of_fsdp, with_plugin
    entry()
