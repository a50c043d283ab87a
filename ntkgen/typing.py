"""Names for what functions take and return; nothing here checks anything."""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
PyTree = Any  # nested containers of arrays
Params = Any  # a PyTree of floating arrays that training moves
Apply = Callable[[Params, Any], Array]  # f(params, x) -> outputs (n, k)
Loss = Callable[[Array, Any], Array]  # loss(outputs, targets) -> (n,)
Matvec = Callable[[PyTree], PyTree]  # product with a symmetric operator
