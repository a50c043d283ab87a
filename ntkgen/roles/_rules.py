"""What names and shapes tell of a leaf's role, by the rules that `ntkgen.roles` states.

Everything works on shapes by path, such as ("dense0", "kernel") -> (3, 4).
"""

import dataclasses
import re
from collections.abc import Mapping

Shape = tuple[int, ...]
Path = tuple[str, ...]

# The part of a name, without its number, that says what a leaf is.
WORDS = {
    "kernel": ("kernel", "kernels"),
    "weight": ("weight", "weights"),
    "bias": ("bias", "beta", "offset", "shift"),
    "scale": ("scale", "gamma"),
    "embedding": ("embedding", "embeddings", "embed", "pos", "position", "positional", "cls", "wte", "wpe"),
}
LETTERS = {"w": "kernel", "W": "kernel", "b": "bias", "g": "scale"}  # whole names, but for a number


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a leaf is.

    Example:
      >>> from ntkgen import roles
      >>> roles.Leaf("kernel", filter_axes=(1,))
      Leaf(role='kernel', filter_axes=(1,), stack_axes=())

    Attributes:
      role: one of `ROLES`.
      filter_axes: axes that index the output units, negative ones count from the end; empty for all but kernels and
        embeddings. None where nothing tells them.
      stack_axes: axes that index stacked layers; `roles.of` gives those of kernels and embeddings. None where nothing
        tells them.
    """

    role: str
    filter_axes: tuple[int, ...] | None = ()
    stack_axes: tuple[int, ...] | None = ()


def _word(name: str) -> str:
    """Return which of `WORDS` a leaf's name holds, or ""."""
    short = name.rstrip("0123456789")
    if short in LETTERS:
        return LETTERS[short]
    parts = {part.rstrip("0123456789") for part in re.split(r"[_.]", name.lower())}
    return next((kind for kind, words in WORDS.items() if not parts.isdisjoint(words)), "")


def _in_module(path: Path, words: str) -> bool:
    return len(path) > 1 and re.search(words, path[-2].lower()) is not None


@dataclasses.dataclass
class _Reading:
    """What the leaves beside a kernel leave possible: its stack depth, and (first unit axis, number of unit axes)."""

    depth: int | None
    units: set[tuple[int, int]]


def decide(named: Mapping[Path, Shape], stacked: bool = True) -> dict[Path, Leaf]:
    """Decide all leaves; with `stacked` False no leaf leads with layers."""
    found: dict[Path, Leaf] = {}
    readings: dict[Path, _Reading] = {}
    for path, shape in named.items():
        role = _role(path, named)
        if role == "kernel":
            readings[path] = _reading(path, named, stacked)
        elif role == "embedding":
            found[path] = Leaf(role, (len(shape) - 1,), tuple(range(len(shape) - 2)) if stacked else ())
        else:
            found[path] = Leaf(role)
    # What the layers that can be told say of the layout holds for the square ones.
    layouts = {}
    for word in ("kernel", "weight", ""):
        own = [(reading, named[path]) for path, reading in readings.items() if _word(path[-1]) == word]
        said = {_layout(reading, shape) for reading, shape in own} - {None}
        layouts[word] = said.pop() if len(said) == 1 else None if word == "weight" else "last"
    for path, reading in readings.items():
        found[path] = _kernel(reading, named[path], layouts[_word(path[-1])])
    return {path: found[path] for path in named}


def _role(path: Path, named: Mapping[Path, Shape]) -> str:
    word, shape = _word(path[-1]), named[path]
    if word in ("bias", "scale"):
        return word
    if word == "weight" and (len(shape) < 2 or _in_module(path, r"norm|^ln")):
        return "scale"
    if len(shape) < 2:
        return "other"
    partner = _partner(path, named)
    table = word == "weight" and len(shape) == 2 and partner is None and _in_module(path, r"embed|^wte|^wpe")
    if word == "embedding" or table:
        return "embedding"
    if partner is not None and named[partner] == shape:
        return "scale"
    if not word and sum(size > 1 for size in shape) - (_depth(path, named) or 0) < 2:
        told = partner is not None and _units(shape, named[partner])
        return "kernel" if told else "other"
    return "kernel"


def _partner(path: Path, named: Mapping[Path, Shape]) -> Path | None:
    """Find the bias that belongs to a kernel: by its name, or because the module has no other."""
    beside = [other for other in named if other[:-1] == path[:-1] and other != path]
    biases = [other for other in beside if _word(other[-1]) == "bias"]
    endings = {other: re.sub("bias|^b", "", other[-1].lower()) for other in biases}
    ending = re.sub("kernels?|weights?|^w", "", path[-1].lower())
    exact = [other for other in biases if endings[other] == ending]
    plain = [other for other in biases if not endings[other]]
    if not _word(path[-1]) and not biases:  # pairs without names, such as (w, b)
        biases = [other for other in beside if 0 < len(named[other]) < len(named[path])]
    chosen = next((own for own in (exact, plain, biases) if len(own) == 1), [])
    if not chosen:
        return None
    # A bias of another name may be another kernel's.
    fits = exact or named[chosen[0]] == named[path] or _units(named[path], named[chosen[0]])
    return chosen[0] if fits else None


def _units(kernel: Shape, bias: Shape) -> set[tuple[int, int, int]]:
    """Return all readings (stack depth, first unit axis, number of unit axes) of a kernel beside a bias."""
    found = set()
    for depth in range(len(bias)):
        own, units = kernel[depth:], bias[depth:]
        if kernel[:depth] != bias[:depth] or len(own) <= len(units):
            continue
        last = len(own) - len(units)
        starts = range(last + 1) if len(units) == 1 else (last,)
        found |= {(depth, depth + i, len(units)) for i in starts if own[i : i + len(units)] == units}
    if not found:
        ones = "".join("1" if size == 1 else "n" for size in bias)  # biases such as (out, 1, 1) or (1, 1, 1, out)
        inner = bias[len(ones) - len(ones.lstrip("1")) : len(ones.rstrip("1"))]
        return _units(kernel, inner) if len(inner) < len(bias) else set()
    return found


def _depth(path: Path, named: Mapping[Path, Shape]) -> int | None:
    """Return how many stack axes the biases and scales of the same block have; None if they do not tell.

    They are vectors, but for those of attention, (heads, d): what they have more are stack axes.
    """
    vectors = [
        (other, shape)
        for other, shape in named.items()
        if _word(other[-1]) in ("bias", "scale") and not _in_module(other, "^(query|key|value)$")
    ]
    block = path[:-2]
    near = [shape for other, shape in vectors if other[: len(block)] == block and other[:-1] != path[:-1]]
    if not _word(path[-1]):  # a module's own param, beside its layers
        near = [shape for other, shape in vectors if other[: len(path) - 1] == path[:-1]] or near
    depths: set[int | None] = set()
    for shape in near:
        longer = [size for size in shape if size > 1]
        depths.add(max(len(longer) - 1, 0) if longer[:-1] == list(named[path][: len(longer) - 1]) else None)
    return depths.pop() if len(depths) == 1 else None


def _reading(path: Path, named: Mapping[Path, Shape], stacked: bool) -> _Reading:
    shape, partner, word = named[path], _partner(path, named), _word(path[-1])
    attention = _attention(path, named)
    if attention is not None and (stacked or attention.depth == 0):
        return attention
    if partner is not None:
        bias = named[partner]
        units = _units(shape, bias)
        if word == "weight":  # PyTorch's and Equinox's layers have one output axis, and biases such as (out, 1, 1)
            while len(bias) > 1 and bias[-1] == 1:
                bias = bias[:-1]
                units |= _units(shape, bias)
            units = {reading for reading in units if reading[2] == 1}
        if not stacked:
            units = {reading for reading in units if reading[0] == 0}
        depths = {depth for depth, _, _ in units}
        if len(depths) > 1:
            depths &= {_depth(path, named)}
        if len(depths) != 1:
            return _Reading(None, set())
        depth = depths.pop()
        return _Reading(depth, {(start, count) for own, start, count in units if own == depth})
    return _without_bias(path, named, stacked)


def _attention(path: Path, named: Mapping[Path, Shape]) -> _Reading | None:
    """Read query, key, value (..., in, heads, d) and out (..., heads, d, out) of one module together."""
    modules = ("query", "key", "value", "out")
    if len(path) < 2 or path[-2] not in modules:
        return None
    shapes = {part: named.get((*path[:-2], part, path[-1]), ()) for part in modules}
    rank = len(named[path])
    if rank < 3 or {len(shape) for shape in shapes.values()} != {rank} or shapes["query"][-2:] != shapes["out"][-3:-1]:
        return None
    bias = _partner(path, named)
    own = 1 if path[-2] == "out" else 2
    if bias is not None and len(named[bias]) != rank - 3 + own:
        return None
    return _Reading(rank - 3, {(rank - own, own)})


def _without_bias(path: Path, named: Mapping[Path, Shape], stacked: bool) -> _Reading:
    shape = named[path]
    rank = len(shape)
    ends = {(rank - 1, 1)}
    depth = _depth(path, named) if stacked else 0
    if rank == 2:
        return _Reading(0, {(0, 1), *ends})
    convolution = _in_module(path, "conv")
    if depth is None and ((rank == 4 and shape[0] == shape[1]) or (rank == 3 and convolution)):
        depth = 0
    if depth is None:
        return _Reading(None, set())
    inner = rank - depth
    window = inner >= 4 and shape[depth] == shape[depth + 1]
    if inner == 2 or window or convolution:
        return _Reading(depth, {(depth, 1), *ends})
    return _Reading(depth, set())


def _layout(reading: _Reading, shape: Shape) -> str | None:
    """Return "first" or "last" where only one of the two fits."""
    places = _places(reading, shape)
    return next(iter(places)) if len(places) == 1 and reading.depth is not None else None


def _places(reading: _Reading, shape: Shape) -> dict[str, tuple[int, int]]:
    named = {}
    for start, count in reading.units:
        if start + count == len(shape):
            named["last"] = (start, count)
        elif start == reading.depth:
            named["first"] = (start, count)
    return named


def _kernel(reading: _Reading, shape: Shape, layout: str | None) -> Leaf:
    if reading.depth is None:
        return Leaf("kernel", None, None)
    stack = tuple(range(reading.depth))
    places = _places(reading, shape)
    chosen = list(places.values()) if len(places) == 1 else [places[layout]] if layout in places else []
    if not places and len(reading.units) == 1:  # such as a transposed convolution, (height, width, out, in)
        chosen = list(reading.units)
    if not chosen:
        return Leaf("kernel", None, stack)
    start, count = chosen[0]
    return Leaf("kernel", tuple(range(start, start + count)), stack)
