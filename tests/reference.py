"""Backpropagation in plain NumPy, in float64: the whole algorithm, slow and clear, the oracle of the tests.

Rows are examples, layers are l = 1..L, and index 0 of every list is None, except a[0] = x.

    forward     z^l = W^l a^(l-1) + b^l             a^l = f^l(z^l)
    cost        C = sum_x w_x E_x / sum_x w_x
    backward    delta^L = (f^L)' * dE/da^L          delta^(l-1) = (f^(l-1))' * (W^l)^T delta^l
    gradients   dC/dW^l = sum_x w_x delta^l (a^(l-1))^T / sum_x w_x, and likewise for b^l and x

Rumelhart, Hinton & Williams, Nature 323 (1986) 533; Nielsen, Neural Networks and Deep Learning (2015), ch. 2.
"""

import numpy as np
from scipy.special import expit, log_softmax, ndtr, softmax, xlog1py, xlogy

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848  # Klambauer et al. (2017), eq. 14

# name: f(z), f'(z); at a kink, the derivative that PyTorch takes; softmax has a Jacobian instead of f'
ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "logistic": (lambda z: expit(z), lambda z: expit(z) * expit(-z)),
    "tanh": (lambda z: np.tanh(z), lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0)),
    "leaky_relu": (lambda z: np.maximum(z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "elu": (lambda z: np.maximum(z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
    "selu": (lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
             lambda z: SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, 0)))),
    "gelu": (lambda z: z * ndtr(z), lambda z: ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)),
    "silu": (lambda z: z * expit(z), lambda z: expit(z) * (1 + z * expit(-z))),
    "softplus": (lambda z: np.logaddexp(0, z), lambda z: expit(z)),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "hard_sigmoid": (lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: np.where(abs(z) < 3, 1 / 6, 0)),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), lambda z: np.where(abs(z) < 1, 1.0, 0)),
    "exp": (lambda z: np.exp(z), lambda z: np.exp(z)),
    "softmax": (lambda z: softmax(z, axis=1), lambda z: None),
}  # fmt: skip

# name: E(a, y), dE/da
LOSSES = {
    "squared_error": (lambda a, y: np.sum((a - y) ** 2, 1) / 2, lambda a, y: a - y),
    "mse": (lambda a, y: np.mean((a - y) ** 2, 1), lambda a, y: 2 * (a - y) / a.shape[1]),
    "binary_cross_entropy": (lambda a, y: -np.sum(xlogy(y, a) + xlog1py(1 - y, -a), 1),
                             lambda a, y: (a - y) / (a * (1 - a))),
    "cross_entropy": (lambda a, y: -np.sum(xlogy(y, a), 1), lambda a, y: -y / a),
}  # fmt: skip

# f^L, E: E(z, y), delta^L(a, y); from the logits, so that nothing overflows
FUSED = {
    ("logistic", "binary_cross_entropy"): (
        lambda z, y: np.sum(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z), 1), lambda a, y: a - y),
    ("softmax", "cross_entropy"): (
        lambda z, y: -np.sum(y * log_softmax(z, axis=1), 1), lambda a, y: a * y.sum(1, keepdims=True) - y),
}  # fmt: skip


def forward(W, b, activations, X):
    """z, a and df, where z[l], a[l] and df[l] = (f^l)'(z^l) have shape (B, n_l); W[l] has (n_l, n_(l-1))."""
    z, a, df = [None], [np.asarray(X, float)], [None]
    for k in range(1, len(W)):
        f, fprime = ACTIVATIONS.get(activations[k], activations[k])  # a name, or a pair of the caller's own
        z.append(a[k - 1] @ W[k].T + (0 if b[k] is None else b[k]))
        a.append(f(z[k]))
        df.append(fprime(z[k]))
    return z, a, df


def backward(W, activations, z, a, df, y, loss, sample_weight=None):
    """C; delta, per example and unweighted; and the gradients dW, db and dx of C."""
    L, y = len(W) - 1, np.asarray(y)
    y = np.eye(a[L].shape[1])[y] if loss == "cross_entropy" and y.ndim == 1 else y.reshape(len(y), -1)
    w = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
    w = w[:, None] / w.sum()

    delta, dW, db = [None] * (L + 1), [None] * (L + 1), [None] * (L + 1)
    if (activations[L], loss) in FUSED:
        value, gradient = FUSED[activations[L], loss]
        E, delta[L] = value(z[L], y), gradient(a[L], y)
    else:
        value, gradient = LOSSES.get(loss, loss)
        E, delta[L] = value(a[L], y), _through(df[L], a[L], gradient(a[L], y))
    for k in range(L, 0, -1):
        dW[k] = (w * delta[k]).T @ a[k - 1]
        db[k] = (w * delta[k]).sum(0)
        da = delta[k] @ W[k]
        if k > 1:
            delta[k - 1] = _through(df[k - 1], a[k - 1], da)
    return E @ w[:, 0], delta, dW, db, w * da


def _through(df, a, da):
    """dE/dz from dE/da; the Jacobian of softmax is diag(a) - a a^T."""
    return a * (da - np.sum(a * da, 1, keepdims=True)) if df is None else df * da


def sgd(theta, g, state, lr=0.01, momentum=0.0, nesterov=False, weight_decay=0.0):
    """One step in place, v = momentum v + g, theta -= lr v; state begins as {}; biases get no decay."""
    g = g + weight_decay * theta
    v = state["v"] = momentum * state.get("v", 0) + g
    theta -= lr * (g + momentum * v if nesterov else v)


def adam(theta, g, state, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False):
    """One step in place of Kingma & Ba (2015), algorithm 1, or of AMSGrad (Reddi et al. 2018); the rest as in sgd."""
    g = g + weight_decay * theta
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    if amsgrad:
        v = state["largest"] = np.maximum(state.get("largest", 0), v)
    theta -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


def adamw(theta, g, state, lr=0.001, weight_decay=0.01, **settings):
    """One step in place of Loshchilov & Hutter (2019), algorithm 2, the decay times lr; its settings are adam's."""
    theta *= 1 - lr * weight_decay
    adam(theta, g, state, lr, **settings)


def nadam(
    theta, g, state, lr=0.002, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=0.004, weight_decay=0.0
):  # fmt: skip
    """One step in place of Dozat (2016), algorithm 2; state and decay as in sgd."""
    g = g + weight_decay * theta
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    mu = beta1 * (1 - 0.96 ** (momentum_decay * np.arange(1, t + 2)) / 2)
    step = (1 - mu[-2]) * g / (1 - np.prod(mu[:-1])) + mu[-1] * m / (1 - np.prod(mu))
    theta -= lr * step / (np.sqrt(v / (1 - beta2**t)) + eps)


def adamax(theta, g, state, lr=0.002, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    """One step in place of Kingma & Ba (2015), algorithm 2, eps as PyTorch has it; state and decay as in sgd."""
    g = g + weight_decay * theta
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    u = state["u"] = np.maximum(beta2 * state.get("u", 0), abs(g) + eps)
    theta -= lr * (m / (1 - beta1**t)) / u


def rmsprop(theta, g, state, lr=0.001, rho=0.9, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0):
    """One step in place of Tieleman & Hinton (2012), centered as Graves (2013); state and decay as in sgd."""
    g = g + weight_decay * theta
    s = state["s"] = rho * state.get("s", 0) + (1 - rho) * g**2
    if centered:
        m = state["m"] = rho * state.get("m", 0) + (1 - rho) * g
        s = np.maximum(s - m**2, 0)
    v = g / (np.sqrt(s) + eps)
    if momentum:
        v = state["v"] = momentum * state.get("v", 0) + v
    theta -= lr * v


def adagrad(theta, g, state, lr=0.01, eps=1e-10, weight_decay=0.0):
    """One step in place of Duchi et al. (2011), the diagonal form; state and decay as in sgd."""
    g = g + weight_decay * theta
    s = state["s"] = state.get("s", 0) + g**2
    theta -= lr * g / (np.sqrt(s) + eps)


def adadelta(theta, g, state, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    """One step in place of Zeiler (2012), algorithm 1; state and decay as in sgd."""
    g = g + weight_decay * theta
    s = state["s"] = rho * state.get("s", 0) + (1 - rho) * g**2
    u = g * np.sqrt(state.get("r", 0) + eps) / np.sqrt(s + eps)
    state["r"] = rho * state.get("r", 0) + (1 - rho) * u**2
    theta -= lr * u


def lion(theta, g, state, lr=0.0001, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """One step in place of Chen et al. (2023), algorithm 2; state as in sgd."""
    m = state.get("m", 0)
    state["m"] = beta2 * m + (1 - beta2) * g
    theta -= lr * (np.sign(beta1 * m + (1 - beta1) * g) + weight_decay * theta)


def schedule_free_sgd(theta, g, state, lr=0.01, momentum=0.9, weight_decay=0.0, r=0.0, weight_lr_power=2.0):
    """One step of Defazio et al. (2024), algorithm 1; theta, in place, is y, where g was taken, and state["x"] the
    average; state begins as {}; biases get no decay."""
    _schedule_free(theta, g + weight_decay * theta, state, lr, momentum, r, weight_lr_power)


def schedule_free_adamw(
    theta, g, state, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, r=0.0, weight_lr_power=2.0
):  # fmt: skip
    """The same around AdamW, as their code has it."""
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    u = g / (np.sqrt(v / (1 - beta2 ** (state.get("t", 0) + 1))) + eps) + weight_decay * theta
    _schedule_free(theta, u, state, lr, beta1, r, weight_lr_power)


def _schedule_free(y, u, state, lr, beta, r, weight_lr_power):
    t = state["t"] = state.get("t", 0) + 1
    w = t**r * lr**weight_lr_power
    total = state["w"] = state.get("w", 0) + w
    z = state["z"] = state.get("z", y) - lr * u
    x = state["x"] = state.get("x", y) + w / total * (z - state.get("x", y))
    y[...] = (1 - beta) * z + beta * x


def rprop(
    theta, g, state, cost, lr=0.01, eta_minus=0.5, eta_plus=1.2, min_step=1e-6, max_step=50.0, improved=True,
    weight_decay=0.0,
):  # fmt: skip
    """One step in place of iRprop+ (Igel & Huesken 2003), or of Rprop (Riedmiller & Braun 1993); cost: before it."""
    g = g + weight_decay * theta
    h, s, move = (state.get(name, np.full_like(theta, first)) for name, first in (("h", 0), ("s", lr), ("move", 0)))
    s = np.where(g * h > 0, np.minimum(eta_plus * s, max_step), s)
    s = state["s"] = np.where(g * h < 0, np.maximum(eta_minus * s, min_step), s)
    back = -move if not improved or cost > state.get("cost", np.inf) else 0
    state["move"] = np.where(g * h < 0, back, -s * np.sign(g))
    state["h"], state["cost"] = np.where(g * h < 0, 0, g), cost
    theta += state["move"]


def batch_norm(a, s, b, eps=1e-5, w=None):
    """In training: out = s n + b, n = (a - mean) / d, d = sqrt(variance + eps), over all axes but the last, with
    weights w shaped as these; out, mean, variance, and what its backward needs (Ioffe & Szegedy 2015)."""
    w = np.ones(a.shape[:-1]) if w is None else w
    w = w[..., None] / w.sum()
    axes = tuple(range(a.ndim - 1))
    mean = np.sum(w * a, axes)
    variance = np.sum(w * (a - mean) ** 2, axes)
    d = np.sqrt(variance + eps)
    n = (a - mean) / d
    return s * n + b, mean, variance, (n, d, s, w)


def batch_norm_backward(g, kept):
    """da, ds and db for g = dC/dout, of the whole cost."""
    n, d, s, w = kept
    axes = tuple(range(g.ndim - 1))
    db, ds = g.sum(axes), (g * n).sum(axes)
    return s / d * (g - w * (db + n * ds)), ds, db
