"""For scripts that use TRL's DPOTrainer: the same names and arguments, in two changed lines (docs/from-trl.md).

```python no-run
from innerpo.trl import InnerPOConfig as DPOConfig, InnerPOTrainer as DPOTrainer
```
"""

from innerpo.trl.config import InnerPOConfig
from innerpo.trl.trainer import InnerPOTrainer

__all__ = ["InnerPOConfig", "InnerPOTrainer"]
