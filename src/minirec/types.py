"""What passes between nodes beside tables."""

from typing import Any

import numpy as np

# keyword arguments of `from_pretrained`, as the catalog's models give them
Model = dict[str, str]
# a LoRA adapter apart from its model: peft's "config", and its "tensors" by name
Adapter = dict[str, Any]
# named arrays; row i of each belongs to the same thing
Matrix = dict[str, np.ndarray]
