/* What the numbers of bp_settings mean.  Each operation has an enum of the indices of n (integers), or of x (reals), in
 * the order in which Python sends them.  A flag is 0 or 1; a length counts elements along an axis.  An operation that
 * caches several buffers has an enum of them, too: op->aux + index. */
#ifndef BP_SETTINGS_H
#define BP_SETTINGS_H

#include "../bp.h"

/* Numbers of theta's products that hidden_jacobian makes for a tile of rows, on the stack. */
enum { BP_HIDDEN_ROOM = 4096 };

/* x of add (bpcore/_operations.py); without settings all factors are 1 and the constant is 0 */
enum {
    ADD_FACTOR,                    /* + i: of input i */
    ADD_CONSTANT = BP_MAX_OPERANDS /* added once to each element */
};

/* x of batch_norm (bpcore/_normalization.py) */
enum {
    BATCH_NORM_EPS,     /* is added to the variance */
    BATCH_NORM_MOMENTUM /* of the running mean and variance, from 0 to below 1 */
};
/* parameters of batch_norm */
enum { BATCH_NORM_RUNNING_MEAN, BATCH_NORM_RUNNING_VARIANCE, BATCH_NORM_S, BATCH_NORM_B };
/* what it leaves of the batch, (units,) each */
enum {
    BATCH_NORM_MEAN,
    BATCH_NORM_VARIANCE,
    BATCH_NORM_INVERSE,   /* 1 / d */
    BATCH_NORM_LEVEL,     /* of the gradient: sum g / W */
    BATCH_NORM_SLOPE,     /* sum g n / (W d) */
    BATCH_NORM_SUM,       /* double: sum g */
    BATCH_NORM_SUM_ALONG, /* double: sum g n */
    BATCH_NORM_N_JOINED
};

/* n of concat (bpcore/_operations.py) */
enum {
    CONCAT_OUTER /* product of the lengths of the axes before the one that grows */
};

/* n of conv (bpcore/_convolution.py), in elements.  _Y is along the height, _X along the width; the pair lies side by
 * side, so that _Y + axis is of axis 0 (height) or 1 (width). */
enum {
    CONV_HEIGHT, /* of the input a */
    CONV_WIDTH,
    CONV_CHANNELS,
    CONV_KERNEL_Y, /* lengths of the kernel */
    CONV_KERNEL_X,
    CONV_STRIDE_Y, /* distance of neighbouring windows */
    CONV_STRIDE_X,
    CONV_BEFORE_Y, /* rows of zeros above a, and columns of zeros left of it */
    CONV_BEFORE_X,
    CONV_OUT_Y, /* height and width of z */
    CONV_OUT_X,
    CONV_DILATION_Y, /* distance in a of neighbouring elements of the kernel */
    CONV_DILATION_X,
    CONV_GROUPS, /* divides the channels and the filters */
    CONV_N_SETTINGS
};

/* n and x of dropout and noise (bpcore/_dropout.py) */
enum {
    DRAW_LAYER,     /* number of the layer in the network, a part of the random counter */
    DROPOUT_ALPHA,  /* flag: AlphaDropout's */
    DROPOUT_SHARED, /* neighbouring runs of elements that are dropped together; 0 or 1: each element by itself */
    DROPOUT_INNER   /* elements of such a run */
};
enum {
    DROPOUT_RATE /* probability of being dropped, in [0, 1) */
};
enum {
    NOISE_STD /* standard deviation, not negative */
};

/* n of function (bpcore/_function.py) */
enum {
    FUNCTION_COLS /* elements that it makes of a row */
};

/* x of layer_norm, normalise and layer_norm_product, n of the last two (bpcore/_normalization.py) */
enum {
    LAYER_NORM_EPS /* is added to the variance */
};
enum {
    LAYER_NORM_UNITS,     /* elements of a position; layer_norm takes them from the shape of s */
    LAYER_NORM_KEEPS_MEAN /* flag: the mean is taken as 0 */
};
/* cached by layer_norm */
enum {
    LAYER_NORM_NORMAL, /* as the input: (a - mean) / deviation */
    LAYER_NORM_INVERSE /* (positions,): 1 / deviation */
};

/* n of linear_recurrence (bpcore/_recurrent.py); delay has those up to LINEAR_REVERSE */
enum {
    LINEAR_STEPS,    /* of a sequence */
    LINEAR_UNITS,    /* elements of h */
    LINEAR_TRUNCATE, /* steps: see RECURRENT_TRUNCATE */
    LINEAR_REVERSE,  /* flag: from the last step to the first */
    LINEAR_MASKED,   /* flag: the last input is (steps,); where it is 0, c and h are carried over */
    LINEAR_READ      /* flag: there is an input O */
};
/* cached by linear_recurrence; C and DC only with O */
enum {
    LINEAR_GATES, /* (steps, gates units): u; backward writes dC/du over it */
    LINEAR_C,     /* (steps, units): c */
    LINEAR_DH,    /* (units,): backward, dC/dh of a step */
    LINEAR_DC     /* (units,): backward, dC/dc of a step */
};

/* n of mask (bpcore/_masks.py) */
enum {
    MASK_WIDTH /* elements of a position */
};

/* n of matmul (bpcore/_matmul.py) */
enum {
    MATMUL_PAIRS, /* of matrices in a row */
    MATMUL_M,     /* rows of C */
    MATMUL_K,     /* terms of each sum */
    MATMUL_N,     /* columns of C */
    MATMUL_TURNED_A, /* flag: A lies as [k, m] */
    MATMUL_TURNED_B  /* flag: B lies as [n, k] */
};

/* n of permute (bpcore/_operations.py), in elements */
enum {
    PERMUTE_AXES = 4,
    PERMUTE_SIZE = 0,                              /* + axis: length of the output's axis */
    PERMUTE_STRIDE = PERMUTE_SIZE + PERMUTE_AXES,  /* + axis: distance in the input of neighbours along it; any sign */
    PERMUTE_START = PERMUTE_STRIDE + PERMUTE_AXES  /* place in the input of the output's first element */
};

/* n of max_pool, max_pool_at and average_pool (bpcore/_convolution.py), in elements; _Y and _X as in conv */
enum {
    POOL_HEIGHT, /* of the image */
    POOL_WIDTH,
    POOL_CHANNELS,
    POOL_WINDOW_Y, /* lengths of a window */
    POOL_WINDOW_X,
    POOL_STRIDE_Y, /* distance of neighbouring windows */
    POOL_STRIDE_X,
    POOL_BEFORE_Y, /* rows above the image, and columns left of it, that the first window covers */
    POOL_BEFORE_X,
    POOL_OUT_Y, /* height and width of the output */
    POOL_OUT_X,
    POOL_N_SETTINGS
};

/* n of recurrent (bpcore/_recurrent.py) */
enum {
    RECURRENT_KIND,      /* RECURRENT_SIMPLE, ... */
    RECURRENT_STEPS,     /* of a sequence */
    RECURRENT_UNITS,     /* elements of h */
    RECURRENT_SEQUENCES, /* flag: h of all steps is the output; else the last h */
    RECURRENT_TRUNCATE,  /* steps: no gradient flows from step s to s - 1 where s is a multiple of it; 0: all flow */
    RECURRENT_REVERSE,   /* flag: from the last step to the first */
    RECURRENT_MASKED,    /* flag: the second input is (steps,); where it is 0, h and c are carried over */
    RECURRENT_BEGUN,     /* flag: the next inputs are h and (LSTM) c before the first step; there is no backward pass */
    RECURRENT_FUNCTION   /* f of the simple kind: its number among the activations; -1: the identity */
};
enum { RECURRENT_SIMPLE, RECURRENT_LSTM, RECURRENT_GRU };
/* cached by recurrent; C, C_BEFORE and TANH_C only by the LSTM.  Python reads H and C. */
enum {
    RECURRENT_H,        /* (units,): h; backward dC/dh */
    RECURRENT_GATES,    /* (steps, units) of the simple kind: f'(z); else (steps, 4 units): i, f, g, o of the LSTM and
                         * r, u, N, n of the GRU.  Backward writes dC/dz over them. */
    RECURRENT_H_BEFORE, /* (steps, units): h at the beginning of each step */
    RECURRENT_SUMS,     /* (gates units,): h U; (3 units,) of the simple kind: z, f(z), f'(z) */
    RECURRENT_TURNED,   /* U^T, one for all rows of a cell: each row brings 1 / RECURRENT_LEAST_ROWS of the room */
    RECURRENT_C,        /* (units,): c; backward dC/dc */
    RECURRENT_C_BEFORE, /* (steps, units): c at the beginning of each step */
    RECURRENT_TANH_C    /* (steps, units): tanh(c) at the end of each step */
};
enum { RECURRENT_LEAST_ROWS = 16 }; /* for which the arena has room, at least */

/* n of softmax, masked_softmax and softmax_product (bpcore/_layers.py, bpcore/_operations.py, bpcore/_tangents.py) */
enum {
    SOFTMAX_WIDTH, /* elements that sum to 1; softmax without settings: a row */
    SOFTMAX_CAUSAL /* lines of a square matrix: element c of its line r counts where c <= r; 0: all count */
};

#endif
