/* The gradient of weights that sparse rows read is a sum over the entries of each column.  When the rows of a chunk are
 * done, one thread lists their entries, and links those of each column in the order of rows, so that whatever thread
 * sums a column does it in one order.  How many entries a batch has is not known before it comes: room grows to the
 * most that there were, and stays.  Which columns are listed already is asked as in tables.c. */
#include "columns.h"

#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

void bp_columns_begin(bp_run *run) {
    for (int i = 0; i < run->plan->n_columns; i++) run->columns[i].n_slots = run->columns[i].before = 0;
}

/* The pointer at `array` gets room for n elements; those that are there stay. */
static int grow(void *array, int64_t n, size_t size) {
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    grown = realloc(old, (size_t)n * size);
    if (grown) memcpy(array, &grown, sizeof grown);
    return grown != NULL;
}

static int64_t with_spare(int64_t n, int64_t most) { return min64(n + n / 4 + 64, most); }

static bp_status make_room(bp_columns *c, int64_t entries, int64_t width, size_t real) {
    int64_t slots = min64(c->n_slots + entries, width);
    if (entries > INT32_MAX) return BP_E_LIMIT;
    if (entries > c->entry_room) {
        int64_t n = with_spare(entries, INT32_MAX);
        c->entry_room = 0;
        if (!grow(&c->next, n, sizeof *c->next) || !grow(&c->row, n, sizeof *c->row) || !grow(&c->value, n, real))
            return BP_E_NOMEM;
        c->entry_room = n;
    }
    if (slots <= c->room) return BP_OK;
    int64_t n = with_spare(slots, width);
    if (!grow(&c->column, n, sizeof *c->column) || !grow(&c->first, n, sizeof *c->first) ||
        !grow(&c->last, n, sizeof *c->last))
        return BP_E_NOMEM;
    c->room = n;
    return BP_OK;
}

/* Gradients that wait, for other chunks or for the boundary. */
static bp_status make_room_to_keep(const bp_plan *plan, const bp_table *t, bp_columns *c) {
    const bp_param *p = &plan->params[t->param];
    if (!t->keeps || c->n_slots <= c->grad_room) return BP_OK;
    int64_t n = with_spare(c->n_slots, p->rows);
    size_t row = (size_t)p->cols * plan->size;
    if (!grow(&c->grad, n, row) || (plan->keeps_lost && !grow(&c->lost, n, row))) return BP_E_NOMEM;
    c->grad_room = n;
    return BP_OK;
}

/* Entries first..end-1 of an array, which are of a row of the chunk, get the numbers from `at` on.  Columns that lead
 * out of the matrix, since another thread has written to it, are passed over. */
static void link_entries(bp_columns *c, const bp_array *a, int64_t first, int64_t end, int64_t width, int32_t row,
                         int32_t at) {
    for (int64_t k = first; k < end; k++, at++) {
        int64_t column = bp_index(a, a->indices, k);
        if (column < 0 || column >= width) continue;
        int32_t s = c->slot_of[column];
        if (s < 0 || s >= c->n_slots || c->column[s] != column) {
            c->slot_of[column] = s = (int32_t)c->n_slots++;
            c->column[s] = (int32_t)column;
            c->first[s] = -1;
        }
        if (c->first[s] < 0) c->first[s] = at;
        else c->next[c->last[s]] = at;
        c->last[s] = at;
        c->next[at] = -1;
        c->row[at] = row;
    }
}

static void scale(bp_dtype dtype, void *values, int64_t first, int64_t n, double factor) {
    for (int64_t i = first; i < first + n && factor != 1; i++)
        if (dtype == BP_F32) ((float *)values)[i] *= (float)factor;
        else ((double *)values)[i] *= factor;
}

static bp_status list(bp_run *run, const bp_op *op, bp_columns *c) {
    const bp_plan *plan = run->plan;
    const bp_sparse_row *rows = bp_sparse_rows(&run->x, op->in[0], 0);
    int64_t width = plan->buffers[op->in[0]].cols, entries = 0, at = 0;
    for (int64_t r = 0; r < run->rows; r++)
        for (int i = 0; i < 2; i++) entries += rows[r].part[i].end - rows[r].part[i].first;
    bp_status status = make_room(c, entries, width, plan->size);
    if (status) return status;
    c->before = c->n_slots;
    c->n_entries = entries;
    for (int64_t s = 0; s < c->before; s++) c->first[s] = -1;
    for (int64_t r = 0; r < run->rows; r++) {
        const bp_array *a = rows[r].array;
        for (int i = 0; i < 2; i++) {
            int64_t first = rows[r].part[i].first, n = rows[r].part[i].end - first;
            bp_active->convert[plan->dtype](a->data + first * a->col_stride, a->col_stride, a->type, a->swapped, n,
                                            (char *)c->value + (size_t)at * plan->size);
            scale(plan->dtype, c->value, at, n, rows[r].part[i].factor);
            link_entries(c, a, first, first + n, width, (int32_t)r, (int32_t)at);
            at += n;
        }
    }
    return BP_OK;
}

bp_status bp_list_columns(bp_run *run) {
    const bp_plan *plan = run->plan;
    bp_status status = BP_OK;
    for (int i = 0; i < plan->n_ops && !status; i++) {
        const bp_op *op = &plan->ops[i];
        if (op->columns >= 0 && plan->buffers[op->out].grad >= 0 && !bp_is_frozen(&plan->params[op->param[0]]))
            status = list(run, op, &run->columns[op->columns]);
    }
    for (int i = 0; i < plan->n_tables && !status; i++) {
        const bp_table *t = &plan->tables[i];
        if (t->columns >= 0) status = make_room_to_keep(plan, t, &run->columns[t->columns]);
    }
    return status;
}
