"""One file a case of bench_graph: a network that is no chain of dense layers, written for each library.

A case is a module of this folder. It is imported in every library's worker, so it imports none of them at the top.
It holds

    TITLE, BATCH, LR                what it is; rows of a batch; of plain SGD

    WITHOUT                         optional, libraries that cannot run it, such as "torch:compile"

    def data(rng):                  {"params": {name: array}, "X": array, "y": array}; rows are a multiple of BATCH,
                                    params have bpcore's names and shapes, X is one array or a dict by input
    def bpcore(bp):                 the bp.Network; its loss is "auto" unless LOSS says another
    def torch_params(params):       {name: array} in the layout that PyTorch likes
    def torch_loss(p, x, y):        mean loss of a batch; p has tensors by those names
    def jax_params(params):         optional, as torch_params
    def jax_loss(p, x, y):          the same for JAX

`adapters/*_.py` have the loops around them (class Graph). A library without its functions is left out of the case.
"""
