/* Tables: parameters of which a step reads and moves only the rows that its batch names.
 *
 * When the rows of a chunk are done, one thread lists the rows that were named (`bp_tables_collect`): a row's place in
 * the list is its slot, and the calls of each slot (the positions that named it) form a chain in ascending order.  Sums
 * take the slots in tasks: the gradient of a row is the sum along its chain, whatever thread does it.  Whether a row is
 * listed already is asked of two arrays that need no clearing (Briggs and Torczon 1993). */
#include "tables.h"

#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOGGED_BYTES = 1 << 20,    /* a table is left out of the safety copy from here on */
    LOGGED_FORCED_BYTES = 256  /* the same where parallel work is forced */
};

/* The operation that goes by_column, where it is the only one to use a parameter, as its first; or NULL. */
static const bp_op *reader_by_column(const bp_plan *plan, const bp_param *p) {
    if (p->first_use < 0 || p->first_use != p->last_use || bp_is_frozen(p)) return NULL;
    const bp_use *use = &plan->uses[p->first_use];
    const bp_op *op = &plan->ops[use->op];
    return op->type->by_column && !use->slot ? op : NULL;
}

/* Weights that sparse rows alone read.  A rule that leaves what has no gradient as it is moves only the rows that a
 * batch names; others do so where they are to (LAZY). */
static int moves_by_row(const bp_plan *plan, const bp_param *p) {
    int penalised = plan->flags & BP_DO_PENALTY && (p->l1 > 0 || p->l2 > 0);
    if (p->flags & BP_PARAM_LAZY) return 1;
    return plan->flags & BP_DO_FUSE && !penalised && p->max_norm == 0;
}

static bp_table table_of_columns(const bp_plan *plan, int param, const bp_op *op) {
    int64_t entries = plan->chunk_rows * BP_SPARSE_ENTRIES; /* about: room is made as they come */
    return (bp_table){.param = param,
                      .columns = op->columns,
                      .keeps = plan->rows > plan->chunk_rows || plan->flags & BP_DO_BOUNDARY,
                      .most = plan->params[param].rows,
                      .calls = entries};
}

/* Parameters that are read by whole numbers, or columns of sparse rows, alone; where nothing moves, their gradients are
 * whole, as others' are. */
bp_status bp_find_tables(bp_plan *plan) {
    plan->tables = calloc((size_t)plan->n_params + 1, sizeof *plan->tables);
    if (!plan->tables) return BP_E_NOMEM;
    for (int i = 0; i < plan->n_params; i++) {
        bp_param *p = &plan->params[i];
        int64_t calls = 0, named = 0;
        const bp_op *reader = reader_by_column(plan, p);
        if (reader && plan->flags & BP_DO_MOVE && moves_by_row(plan, p)) {
            p->flags |= BP_PARAM_TABLE;
            plan->tables[plan->n_tables++] = table_of_columns(plan, i, reader);
            continue;
        }
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
            const bp_op *op = &plan->ops[plan->uses[u].op];
            if (!op->type->by_row) p->flags &= ~BP_PARAM_TABLE;
            else calls += plan->buffers[op->in[0]].cols;
        }
        if (!bp_is_table(p) || !(plan->flags & BP_DO_MOVE)) continue;
        if (__builtin_mul_overflow(calls, plan->rows, &named)) return BP_E_LIMIT;
        calls *= plan->chunk_rows;
        if (calls > INT32_MAX) return BP_E_LIMIT;
        int64_t most = min64(p->rows, named), bytes = p->rows * p->cols * (int64_t)plan->size;
        int64_t large = bp_forced.parallel_always ? LOGGED_FORCED_BYTES : LOGGED_BYTES;
        plan->tables[plan->n_tables++] =
            (bp_table){.param = i,
                       .columns = -1,
                       .logged = bytes >= large && p->rows / 4 >= most && !(plan->flags & BP_DO_AVERAGE),
                       .keeps = plan->rows > plan->chunk_rows || plan->flags & BP_DO_BOUNDARY,
                       .most = most,
                       .calls = calls};
    }
    return BP_OK;
}

static int32_t *at(char *arena, size_t offset) { return (int32_t *)(void *)(arena + offset); }

void bp_tables_begin(const bp_plan *plan, bp_slots *slots) {
    for (int i = 0; i < plan->n_tables; i++) slots[i] = (bp_slots){0, 0};
}

void bp_tables_collect(const bp_plan *plan, char *arena, bp_slots *slots, int64_t rows) {
    enum { AHEAD = 16 };
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_table *t = &plan->tables[i];
        bp_slots *n = &slots[i];
        if (t->columns >= 0) continue;
        int32_t *slot_of = at(arena, t->slot_of), *row = at(arena, t->row), *next = at(arena, t->next);
        int32_t *first = at(arena, t->first), *last = at(arena, t->last), call = 0;
        n->before = n->touched;
        for (int64_t s = 0; s < n->before; s++) first[s] = -1;
        for (int u = plan->params[t->param].first_use; u >= 0; u = plan->uses[u].next) {
            const bp_buffer *in = &plan->buffers[plan->ops[plan->uses[u].op].in[0]];
            const int32_t *named = at(arena, in->offset);
            int64_t positions = rows * in->cols;
            for (int64_t k = 0; k < positions; k++, call++) {
                if (k + AHEAD < positions) __builtin_prefetch(slot_of + named[k + AHEAD], 1);
                int32_t r = named[k], s = slot_of[r];
                if (s < 0 || s >= n->touched || row[s] != r) {
                    slot_of[r] = s = (int32_t)n->touched++;
                    row[s] = r;
                    first[s] = -1;
                }
                if (first[s] < 0) first[s] = call;
                else next[last[s]] = call;
                last[s] = call;
                next[call] = -1;
            }
        }
    }
}

void bp_table_gradient(const bp_plan *plan, int table, char *arena, const bp_slots *slots, int64_t slot, int64_t rows,
                       void *G, void *lost) {
    const bp_table *t = &plan->tables[table];
    int64_t cols = plan->params[t->param].cols, base = 0; /* calls of earlier uses */
    size_t bytes = (size_t)cols * plan->size;
    int begun = slot < slots[table].before, u = plan->params[t->param].first_use;
    const int32_t *next = at(arena, t->next);
    for (int32_t call = at(arena, t->first)[slot]; call >= 0; call = next[call]) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        for (int64_t n; call >= base + (n = rows * plan->buffers[op->in[0]].cols); op = &plan->ops[plan->uses[u].op]) {
            base += n;
            u = plan->uses[u].next;
        }
        const bp_buffer *gradient = &plan->buffers[plan->buffers[op->out].grad];
        const char *dout = arena + gradient->offset + (size_t)(call - base) * bytes;
        if (begun) bp_active->sum[plan->dtype](G, lost, dout, cols);
        else memcpy(G, dout, bytes);
        if (!begun && lost) memset(lost, 0, bytes);
        begun = 1;
    }
}
