"""Teaching twins of backpropagation: the same gradient by the two slow ways that it replaces.

Let F = sum_l n_l n_(l-1) be the multiplications of a forward pass of one example, P the number of parameters
and P_l those of layers 1..l. An example then costs

    backpropagation               3 F - n_1 n_0                    one forward pass, delta, and the gradients
    naive_forward_accumulation    sum_(l>1) n_l n_(l-1) P_(l-1)    about P F / 2 in a net of even width
    perturbation                  2 P F                            two forward passes for each parameter

so backpropagation costs a fixed number of forward passes, and the others a number that grows with the net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._layers import Dense, Input

if TYPE_CHECKING:
    from ._network import Network

__all__ = ["naive_forward_accumulation", "perturbation"]


def naive_forward_accumulation(net: Network, X: Any, y: Any, loss: Any = "auto") -> np.ndarray[Any, Any]:
    """Return the gradient of the cost by multiplying Jacobians from the input forwards.

    With D^l = diag((f^l)'(z^l)), the chain rule for the parameters theta^m of layer m is one product,

        dE/dtheta^m = delta^L W^L D^(L-1) W^(L-1) ... D^m dz^m/dtheta^m.

    Here it is multiplied from the right, in the order in which a forward pass meets the factors: what is
    carried is dz^l/dtheta, a matrix of P_l columns, and every layer multiplies it by W^l. From the left, the
    product begins with one row, stays one row, and its beginnings are shared by all m:

        delta^(l-1) = (f^(l-1))' * (W^l)^T delta^l        dE/dW^l = delta^l (a^(l-1))^T

    That is backpropagation: a row times a matrix in each layer, where this function has matrix times matrix.

    X (n, n_0) and y are as in `Network.value_and_grad`, and so is what is returned, (n_params,), in float64.
    Raises ValueError where the network is not a chain of Dense layers, each used once.
    """
    L = _depth_of_chain(net)
    tape = net.forward(X)
    delta = net.backward(tape, y, loss=loss).delta[L]
    gradient = np.zeros(net.n_params)
    for i in range(len(delta)):
        da = np.zeros((tape.a[0].shape[1], 0))
        for k in range(1, L + 1):
            eye = np.eye(len(net.W[k]))
            dz_dW = np.kron(tape.a[k - 1][i], eye)  # (n_k, n_(k-1) n_k), columns as W in theta, [in, out]
            dz_db = [] if net.b[k] is None else [eye]
            dz = np.hstack([net.W[k] @ da, dz_dW, *dz_db])  # (n_k, P_k)
            if k < L:
                da = tape.df[k][i][:, None] * dz
        gradient += delta[i] @ dz
    return gradient / len(delta)


def perturbation(net: Network, X: Any, y: Any, loss: Any = "auto") -> np.ndarray[Any, Any]:
    """Return the gradient of the cost by moving one parameter at a time.

        dC/dtheta_i = (C(theta + h e_i) - C(theta - h e_i)) / 2h + O(h^2)

    h = eps^(1/3) max(1, |theta_i|) weighs that error against rounding, which leaves about ten digits in
    float64 and four in float32. Arguments, result and errors are as in `naive_forward_accumulation`.
    """
    _depth_of_chain(net)
    moved = net.copy()
    theta = moved.theta
    gradient = np.empty(net.n_params)
    for i, centre in enumerate(theta.copy()):
        h = np.finfo(theta.dtype).eps ** (1 / 3) * max(1.0, abs(centre))
        cost, at = [], []
        for value in (centre - h, centre + h):
            theta[i] = value
            at.append(float(theta[i]))
            cost.append(moved.evaluate(X, y, loss=loss)["loss"])
        theta[i] = centre
        gradient[i] = (cost[1] - cost[0]) / (at[1] - at[0])
    return gradient


def _depth_of_chain(net: Network) -> int:
    """L of a chain of Dense layers, each used once."""
    layers = [layer for layer in net.layers if not isinstance(layer, Input)]
    if len(set(map(id, layers))) < len(layers) or not all(isinstance(layer, Dense) for layer in layers):
        kinds = ", ".join(type(layer).__name__ for layer in layers)
        raise ValueError(f"net: expected a chain of Dense layers, each used once, got {kinds}")
    return len(layers)
