"""Dense oracles of curvature, to be right by reading; float64, parameters as one vector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

# An oracle runs once: compiling it without optimisations takes half the time.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def flat_params(params):
    """One vector, and the function back."""
    return ravel_pytree(params)


def hessian(loss, params):
    """Second derivatives (d, d) of loss(params), reverse over reverse, row by row."""
    w, unravel = flat_params(params)
    gradient = jax.grad(lambda w: loss(unravel(w)))
    row = jax.grad(lambda w, e: jnp.vdot(gradient(w), e))
    return np.asarray(jit_once(lambda w: jax.lax.map(lambda e: row(w, e), jnp.eye(len(w), dtype=w.dtype)))(w))


def jacobian(f, params, x):
    """Outputs differentiated (n, k, d)."""
    w, unravel = flat_params(params)
    return np.asarray(jax.jacrev(lambda w: f(unravel(w), x))(w))


def ggn(f, loss, params, x, y):
    """Mean of J^T (second derivative of the loss in the outputs) J."""
    j, outputs = jacobian(f, params, x), f(params, x)
    total = 0
    for i in range(len(x)):
        inner = np.asarray(jax.hessian(lambda o, i=i: loss(o[None], y[i : i + 1])[0])(outputs[i]))
        total = total + j[i].T @ inner @ j[i]
    return total / len(x)


def fisher(f, params, x):
    """Expectation over inputs and over labels drawn from the softmax of g g^T, g the gradient of log p(label)."""
    w, unravel = flat_params(params)
    log_p = lambda w: jax.nn.log_softmax(f(unravel(w), x))  # noqa: E731
    gradients, p = np.asarray(jax.jacrev(log_p)(w)), np.exp(np.asarray(log_p(w)))
    total = 0
    for i in range(len(x)):
        for label in range(p.shape[1]):
            total = total + p[i, label] * np.outer(gradients[i, label], gradients[i, label])
    return total / len(x)


def example_gradients(f, loss, params, x, y):
    """The gradient of each example's loss (n, d)."""
    w, unravel = flat_params(params)
    return np.asarray(jax.jacrev(lambda w: loss(f(unravel(w), x), y))(w))


def symmetric(eigenvalues, seed=0):
    """A symmetric float64 matrix of given eigenvalues in a random basis."""
    d = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return q * np.asarray(eigenvalues, float) @ q.T
