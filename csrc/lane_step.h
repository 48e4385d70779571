/* A group of networks side by side, and its steps. */
#ifndef BP_LANE_STEP_H
#define BP_LANE_STEP_H

#include "kernels/kernels.h"
#include "run.h"

enum {
    BP_MAX_LANES = 16,  /* networks of a group, at most */
    BP_LANE_LAYERS = 8, /* of each, at most */
    BP_LANE_CHAIN = 64  /* rows of one chain: see FN(CHAIN) in sums.inc */
};

enum { BP_LANE_X, BP_LANE_TARGET, BP_LANE_WEIGHT, BP_LANE_PORTS };

/* Rows of an input of all networks. */
typedef struct {
    int number;    /* of the runs' ports; -1: there is none */
    int64_t cols;
    int labels;
    int shared;    /* all networks read the same rows */
    char *own;     /* by network, (rows, cols), as they are gathered */
    int64_t ld;    /* elements from one network's to the next's */
    char *vectors; /* (rows, cols) */
} bp_lane_port;

/* f(a W + b) on some rows; f NULL is the identity, or what the loss is fused with, and a is then z. */
typedef struct {
    int64_t n_in, n_out, W, b; /* places in theta; b: -1 without */
    const bp_activation *f;
    char *z, *a, *df, *delta;  /* (rows, n_out) */
} bp_lane_layer;

/* Parameters next to each other that move with the same factors. */
typedef struct {
    int64_t at, n;
    double rate, decay;
} bp_lane_stretch;

typedef struct {
    const bp_plan *plan;
    bp_dtype dtype;
    int n, lanes;      /* networks; of a vector: those behind the n repeat the first */
    size_t size, vector; /* bytes */
    bp_run *run[BP_MAX_LANES];
    const bp_loss *loss;
    bp_lane_loss_fn *lane_loss; /* or NULL: the loss is called for one network after the other */
    int n_layers, n_stretches, n_arrays; /* arrays: theta, and the states that are kept */
    bp_lane_layer layers[BP_LANE_LAYERS];
    bp_lane_stretch *stretches;
    bp_lane_port ports[BP_LANE_PORTS];
    int64_t at_once, window, first, held; /* rows: of a tile, of a window; the window's first, and how many it holds */

    char *memory;
    int64_t theta_ld;              /* elements from one network's to the next's */
    char *own[1 + BP_MAX_STATES];  /* by network, (n_theta,) */
    char *live[1 + BP_MAX_STATES]; /* vectors, (n_theta,); of the states, unless they move apart */
    int state_of[BP_MAX_STATES];   /* the rule's state i: its array, or 0 */
    char *G, *shard, *own_G;       /* of a batch, of a shard, and by network */
    double *totals;                /* of biases' gradients: as G */
    char *own_out, *own_grad;      /* what the loss reads and writes, by network, where it is called for each */
    int64_t out_ld;

    /* of this slice */
    int64_t pos, batches, batch_rows;
    int apart;       /* networks move one after the other, since their numbers differ: `own` is theirs, not `live` */
    int spoilt, varies, weighted;
    bp_move move[BP_MAX_LANES];
    int64_t t[BP_MAX_LANES], updates[BP_MAX_LANES];
    double tile_sum[3 * BP_MAX_LANES], sum[3 * BP_MAX_LANES], done[3 * BP_MAX_LANES], loss_sum[3 * BP_MAX_LANES];
} bp_lanes;

/* Arrays first..end-1 from the networks' own places to vectors; all arrays back. */
void bp_lanes_join(bp_lanes *g, int first, int end);
void bp_lanes_part(bp_lanes *g);
/* Whether the rule moves two networks by the same numbers, scale aside. */
int bp_lanes_same_numbers(const bp_move *a, const bp_move *b);
/* One batch of all networks. */
void bp_lanes_step(bp_lanes *g);

#endif
