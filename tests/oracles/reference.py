"""Slow oracles in plain numpy, to be right by reading. Parameters are the nested dicts of Flax, arrays of any dtype."""

import math

import numpy as np

# --- Inputs


def random_variables(shapes, seed):
    """Fill a nested dict of shapes, as `jax.eval_shape` of an initialisation gives it, with float64 draws.

    Kernels have variance 2 / fan_in, everything else is drawn away from its usual zeros and ones.
    """
    rng = np.random.default_rng(seed)

    def fill(name, node):
        if hasattr(node, "items"):
            return {key: fill(key, child) for key, child in sorted(node.items())}
        if name == "kernel":
            return rng.normal(size=node.shape) * math.sqrt(2 / math.prod(node.shape[:-1]))
        return rng.uniform(0.5, 2.0, node.shape) if name in ("var", "scale") else rng.normal(size=node.shape) / 5

    return fill("", shapes)


# --- Networks


def relu(x):
    return np.maximum(x, 0)


def dense(layer, x):
    """x (n, d) -> (n, units)."""
    return x @ layer["kernel"] + layer["bias"]


def mlp(params, x):
    """Logits (n, k) of dense0 ... dense{L-1} with ReLU between."""
    x = x.reshape(len(x), -1)
    for i in range(len(params) - 1):
        x = relu(dense(params[f"dense{i}"], x))
    return dense(params[f"dense{len(params) - 1}"], x)


def conv3x3(layer, x):
    """x (n, h, w, ci), kernel (3, 3, ci, co), zero padding of one pixel -> (n, h, w, co); no kernel flip."""
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((n, h, w, layer["kernel"].shape[-1]), x.dtype)
    for row in range(h):
        for column in range(w):
            patch = padded[:, row : row + 3, column : column + 3]
            out[:, row, column] = np.einsum("nijc,ijco->no", patch, layer["kernel"])
    return out + layer.get("bias", 0)


def batch_norm(affine, running, x, train, momentum=0.1, epsilon=1e-5):
    """Normalise x (..., c); return it with the running statistics, PyTorch's conventions.

    The batch is normalised with the biased variance, the running variance moves towards the unbiased one.
    """
    flat = x.reshape(-1, x.shape[-1])
    if train:
        mean, var = flat.mean(0), flat.var(0)
        running = {
            "mean": (1 - momentum) * running["mean"] + momentum * mean,
            "var": (1 - momentum) * running["var"] + momentum * flat.var(0, ddof=1),
        }
    else:
        mean, var = running["mean"], running["var"]
    x = (x - mean) / np.sqrt(var + epsilon)
    return x * affine.get("scale", 1) + affine.get("bias", 0), running


def max_pool(x):
    """2x2 windows of x (n, h, w, c), stride 2; an odd last row or column is dropped."""
    n, h, w, c = x.shape
    out = np.zeros((n, h // 2, w // 2, c), x.dtype)
    for row in range(h // 2):
        for column in range(w // 2):
            out[:, row, column] = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max((1, 2))
    return out


def cnn(params, batch_stats, x, train):
    """Logits (n, k) of the paper's CNN, and the batch statistics after the pass."""
    new_stats = {}
    for block in range(3):
        for half in range(2):
            norm = f"norm{block}_{half}"
            x = conv3x3(params[f"conv{block}_{half}"], x)
            x, new_stats[norm] = batch_norm(params.get(norm, {}), batch_stats[norm], x, train)
            x = relu(x)
        x = max_pool(x)
    x = relu(dense(params["dense0"], x.reshape(len(x), -1)))
    return dense(params["dense1"], x), new_stats


# --- Losses, per example, with their gradients by the logits


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def one_hot(y, k):
    return (np.asarray(y)[:, None] == np.arange(k)).astype(float)


def cross_entropy(logits, y):
    """-log softmax(logits)[y] and its gradient, softmax - one-hot."""
    top = logits.max(-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return log_sum - logits[np.arange(len(y)), y], softmax(logits) - one_hot(y, logits.shape[-1])


def squared_error(logits, y):
    """|logits - one-hot|^2 / 2 and its gradient, the residual."""
    residual = logits - one_hot(y, logits.shape[-1])
    return (residual**2).sum(-1) / 2, residual


LOSSES = {"cross_entropy": cross_entropy, "mse": squared_error}


def mlp_gradient(params, x, y, loss):
    """Gradient of the mean loss by backpropagation."""
    inputs = [x.reshape(len(x), -1)]
    for i in range(len(params) - 1):
        inputs.append(relu(dense(params[f"dense{i}"], inputs[-1])))
    delta = LOSSES[loss](mlp(params, x), y)[1] / len(x)
    gradient = {}
    for i in reversed(range(len(params))):
        gradient[f"dense{i}"] = {"kernel": inputs[i].T @ delta, "bias": delta.sum(0)}
        delta = (delta @ params[f"dense{i}"]["kernel"].T) * (inputs[i] > 0)
    return gradient


# --- Optimizers, one array at a time, as torch.optim documents them


def sgd(param, gradient, buffer, rate, momentum, weight_decay):
    """Heavy ball; return (param, buffer). Start from a buffer of zero."""
    gradient = gradient + weight_decay * param
    buffer = momentum * buffer + gradient
    return param - rate * buffer, buffer


def adam(param, gradient, moments, step, rate, weight_decay, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Adam with L2 in the gradient; step counts from 1; return (param, (first, second moment))."""
    gradient = gradient + weight_decay * param
    first = beta1 * moments[0] + (1 - beta1) * gradient
    second = beta2 * moments[1] + (1 - beta2) * gradient**2
    corrected = first / (1 - beta1**step), second / (1 - beta2**step)
    return param - rate * corrected[0] / (np.sqrt(corrected[1]) + epsilon), (first, second)


def cosine(base, epoch, epochs):
    """CosineAnnealingLR(T_max=epochs), stepped once an epoch."""
    return base * (1 + math.cos(math.pi * epoch / epochs)) / 2


def train_mlp(params, x, y, orders, *, batch_size, rates, optimizer, momentum, weight_decay, loss):
    """Train on the batches of the given orders (epochs, n), the last partial one of each epoch included."""
    params = {layer: dict(arrays) for layer, arrays in params.items()}
    memory = {(layer, name): 0.0 for layer in params for name in params[layer]}
    memory = {place: (0.0, 0.0) for place in memory} if optimizer == "adam" else memory
    step = 0
    for order, rate in zip(orders, rates, strict=True):
        for start in range(0, len(x), batch_size):
            step += 1
            rows = order[start : start + batch_size]
            gradient = mlp_gradient(params, x[rows], y[rows], loss)
            for layer, name in memory:
                p, g, m = params[layer][name], gradient[layer][name], memory[layer, name]
                if optimizer == "adam":
                    p, m = adam(p, g, m, step, rate, weight_decay)
                else:
                    p, m = sgd(p, g, m, rate, momentum, weight_decay)
                params[layer][name], memory[layer, name] = p, m
    return params
