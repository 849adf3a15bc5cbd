/* Attention and one p-Laplacian step in memory that is linear in the number of nodes; adapters/kernels/strips.py calls it.
 *
 * A strip is some queries with all values that they may see. Rows are whole there, so that normalisers need no second
 * look, and nothing per edge outlives its strip. Where queries are ordered in time ("ordered"), value degrees are
 * carried from strip to strip, and one sweep over the strips does everything. The backward pass visits them from the
 * last to the first and takes the degrees back again: gradients of degrees come from later queries. Where they are not,
 * degrees and their gradients need all queries, and each pass takes two sweeps.
 *
 * With M the weights, e the value degrees, G the metric and X the query nodes' features, in base 2:
 *
 *     r_ij = 1/√e_ij,  R²_ij = |x_i|² + |v_j|² r_ij² - 2 x_i·v_j r_ij,
 *     z_ij = p/2 (log M_ij + log R²_ij) - log R²_ij,  σ_i = softmax(z_i),  message_i = Σ_j σ_ij r_ij v_j
 *
 * and with the gradients g of the messages and ρ of log Σ_j 2^z_ij, the gradient of z_ij is
 *
 *     t_ij = σ_ij (g_i·v_j r_ij - offset_i),  offset_i = g_i·message_i - ρ_i,  Σ_j t_ij = ρ_i.
 *
 * Each thread takes heads, one by one; what it adds up, it adds up in one order. */
#include "strips_rows.h"

#define ALONE 16 /* floats of a cache line */

typedef enum { NO_MASK, VISIBLE, ADDED } MaskKind;

/* One call. Arrays are stored row by row without gaps, but for the mask and the degrees' scale: these have strides, 0
 * where numbers are shared. */
typedef struct {
    int heads, heads_per_example, queries, values, features, rows, threads;
    int ordered, triangular; /* triangular: query i sees values up to i + values - queries */
    int mask_kind, failed;   /* failed: no memory */
    float p, scale;
    long mask_example, mask_row, mask_column, scale_example, scale_row;
    const void *mask;          /* bool or float */
    const uint8_t *valid;      /* [example, n]: queries that have edges; NULL: all */
    const float *past;         /* [g, m]: degrees of earlier queries; NULL: none */
    const float *degree_scale; /* [example, n]: what degrees are multiplied by; NULL: 1 */
    const float *query, *key, *value; /* [g, n, d], [g, m, d], [g, m, d] */
    const float *node;                /* [g, n, d]: the query nodes' features, X */
    const float *metric;              /* [heads of an example, d, d]; NULL: the identity */
    /* results of the forward pass */
    float *log_total, *log_power; /* [g, n]: log2 Σ 2^s; log2 Σ 2^z, infinite for a query without edges */
    float *message;  /* [g, n, d] */
    float *context;  /* [g, n, d]: M V, also of queries that are not valid; NULL: not wanted */
    double *degrees; /* [g, m]: after all queries */
    /* for the backward pass */
    const float *grad_out, *kappa;     /* [g, n, d], [g, n]: gradients of the messages are their products */
    const float *offset, *grad_power;  /* [g, n] */
    const float *grad_context;         /* [g, n, d] or NULL */
    float *grad_query, *grad_node;     /* [g, n, d]; both may be the same, for their sum */
    float *grad_key, *grad_value;      /* [g, m, d] or NULL */
    double *grad_p;                    /* [g]: over ln 2 / 2 */
} Step;

/* A head's part of the call, and the room that strips share. */
typedef struct {
    const Step *step;
    int head, n, m, d;
    long ld; /* of arrays with a row for each query of a strip, and a column for each value */
    const float *query, *key, *value, *node, *metric;
    size_t of_query, of_value; /* where the head's numbers begin in [g, n] and [g, m] */
} Head;

typedef struct {
    int first, rows, columns;
} Strip;

static Head head_of(const Step *step, int head) {
    Head h = {step, head, step->queries, step->values, step->features};
    h.ld = ((long)h.m + ALONE - 1) / ALONE * ALONE;
    if (h.ld % 256 == 0) h.ld += ALONE; /* rows a power of two apart share places in the cache */
    h.of_query = (size_t)head * h.n;
    h.of_value = (size_t)head * h.m;
    h.query = step->query + h.of_query * h.d;
    h.node = step->node + h.of_query * h.d;
    h.key = step->key + h.of_value * h.d;
    h.value = step->value + h.of_value * h.d;
    if (step->metric) h.metric = step->metric + (size_t)(head % step->heads_per_example) * h.d * h.d;
    return h;
}

/* How many values query i may see, the first ones. */
static int width_of(const Head *h, int i) {
    if (!h->step->triangular) return h->m;
    int width = i + 1 + h->m - h->n;
    return width < 0 ? 0 : width > h->m ? h->m : width;
}

static Strip strip_of(const Head *h, int first) {
    int rows = h->n - first < h->step->rows ? h->n - first : h->step->rows;
    return (Strip){first, rows, width_of(h, first + rows - 1)};
}

static bool has_edges(const Head *h, int i) {
    const Step *x = h->step;
    return !x->valid || x->valid[(size_t)(h->head / x->heads_per_example) * h->n + i];
}

static float degree_scale(const Head *h, int i) {
    const Step *x = h->step;
    if (!x->degree_scale) return 1.f;
    return x->degree_scale[h->head / x->heads_per_example * x->scale_example + i * x->scale_row];
}

/* Part of the room for `floats` numbers, on a cache line of its own. */
static float *part(float **room, size_t floats) {
    float *start = *room;
    *room += (floats + ALONE - 1) / ALONE * ALONE;
    return start;
}

static void zero(float *x, size_t count) { memset(x, 0, count * sizeof *x); }

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

/* out += factor · X G for some rows of features. */
static void add_with_metric(const Head *h, int rows, float factor, const float *x, float *out) {
    if (h->metric)
        product_nn(rows, h->d, h->d, factor, x, h->d, h->metric, h->d, 1.f, out, h->d);
    else
        for (int k = 0; k < rows * h->d; k++) out[k] += factor * x[k];
}

/* X G, and the squared lengths. */
static void measure(const Head *h, int rows, const float *x, float *x_g, float *norm) {
    zero(x_g, (size_t)rows * h->d);
    add_with_metric(h, rows, 1.f, x, x_g);
    for (int i = 0; i < rows; i++) {
        norm[i] = 0.f;
        for (int k = i * h->d; k < (i + 1) * h->d; k++) norm[i] += x[k] * x_g[k];
    }
}

/* The values' squared lengths; the room is for as many rows as a strip has. */
static void measure_values(const Head *h, float *room, float *norm_v) {
    for (int first = 0; first < h->m; first += h->step->rows) {
        int rows = h->m - first < h->step->rows ? h->m - first : h->step->rows;
        measure(h, rows, h->value + (size_t)first * h->d, room, norm_v + first);
    }
}

/* ---- strips ----------------------------------------------------------------------------------------------------- */

static void hide(const Head *h, int i, float *restrict s, int count) {
    const Step *x = h->step;
    if (x->mask_kind == NO_MASK) return;
    long start = h->head / x->heads_per_example * x->mask_example + i * x->mask_row, next = x->mask_column;
    if (x->mask_kind == VISIBLE) {
        const uint8_t *restrict seen = (const uint8_t *)x->mask + start;
        if (next == 1)
            for (int j = 0; j < count; j++) s[j] = seen[j] ? s[j] : HIDDEN;
        else
            for (int j = 0; j < count; j++) s[j] = seen[j * next] ? s[j] : HIDDEN;
    } else {
        const float *restrict added = (const float *)x->mask + start;
        float least = HIDES_BELOW;
        if (next == 1)
            for (int j = 0; j < count; j++) s[j] = added[j] > least ? s[j] + added[j] * LOG2_E : HIDDEN;
        else
            for (int j = 0; j < count; j++) s[j] = added[j * next] > least ? s[j] + added[j * next] * LOG2_E : HIDDEN;
    }
}

/* Masked scores of a strip, to base 2. */
static void score(const Head *h, Strip strip, float *s) {
    product_nt(strip.rows, strip.columns, h->d, h->step->scale * LOG2_E, h->query + (size_t)strip.first * h->d, h->d,
               h->key, h->d, 0.f, s, h->ld);
    for (int i = 0; i < strip.rows; i++) hide(h, strip.first + i, s + i * h->ld, width_of(h, strip.first + i));
}

/* 1/√e at the values; |v|² becomes |v|²/e. */
static void lengths_of(const Head *h, const double *degrees, float *root, float *norm_v) {
    float scale = degree_scale(h, 0);
    for (int j = 0; j < h->m; j++) {
        root[j] = rsqrt_degree((float)degrees[j], scale);
        norm_v[j] *= root[j] * root[j];
    }
}

static void scaled_values(const Head *h, const float *root, float *values) {
    for (int j = 0; j < h->m; j++)
        for (int k = 0; k < h->d; k++) values[(size_t)j * h->d + k] = root[j] * h->value[(size_t)j * h->d + k];
}

/* ---- forward pass ----------------------------------------------------------------------------------------------- */

static void forward_head(void *argument, int index) {
    Step *step = argument;
    Head h = head_of(step, index);
    int d = h.d;
    size_t strip_size = (size_t)step->rows * h.ld, values_size = step->ordered ? 0 : (size_t)h.m * d;
    float *room = scratch((step->context ? 3 : 2) * strip_size + 3 * h.ld + values_size +
                          (size_t)step->rows * (d + 1) + 3 * ALONE);
    if (!room) {
        step->failed = 1;
        return;
    }
    float *scores = part(&room, strip_size), *dots = part(&room, strip_size);
    float *shown = step->context ? part(&room, strip_size) : NULL;
    float *node_g = part(&room, (size_t)step->rows * d), *norm_q = part(&room, step->rows);
    float *norm_v = part(&room, h.ld), *sums = part(&room, h.ld);
    float *before = part(&room, h.ld); /* in a graph without order: 1/√e */
    const float *value = h.value;
    double *degrees = step->degrees + h.of_value;
    for (int j = 0; j < h.m; j++) degrees[j] = step->past ? step->past[h.of_value + j] : 0.0;
    float half_p = 0.5f * step->p;
    measure_values(&h, node_g, norm_v);
    if (!step->ordered) {
        for (int first = 0; first < h.n; first += step->rows) {
            Strip strip = strip_of(&h, first);
            score(&h, strip, scores);
            zero(sums, strip.columns);
            for (int i = 0; i < strip.rows; i++) {
                float *restrict s = scores + i * h.ld;
                int width = width_of(&h, first + i);
                float log_total = step->log_total[h.of_query + first + i] = log_sum(s, width);
                if (!has_edges(&h, first + i)) continue;
#pragma omp simd
                for (int j = 0; j < width; j++) sums[j] += weight_of(s[j] - log_total);
            }
            for (int j = 0; j < strip.columns; j++) degrees[j] += sums[j];
        }
        lengths_of(&h, degrees, before, norm_v);
        float *values = part(&room, values_size);
        scaled_values(&h, before, values);
        value = values;
    }
    for (int first = 0; first < h.n; first += step->rows) {
        Strip strip = strip_of(&h, first);
        size_t start = h.of_query + first;
        score(&h, strip, scores);
        measure(&h, strip.rows, h.node + (size_t)first * d, node_g, norm_q);
        product_nt(strip.rows, strip.columns, d, 1.f, node_g, d, value, d, 0.f, dots, h.ld);
        if (step->ordered) {
            zero(sums, strip.columns);
            for (int j = 0; j < strip.columns; j++) before[j] = (float)degrees[j];
        }
        for (int i = 0; i < strip.rows; i++) {
            float *restrict s = scores + i * h.ld, *restrict root = dots + i * h.ld, high = 0.f, total = 0.f;
            int width = width_of(&h, first + i);
            if (step->ordered) step->log_total[start + i] = log_sum(s, width);
            float log_total = step->log_total[start + i];
            if (shown) {
                weights(s, log_total, shown + i * h.ld, width);
                zero(shown + i * h.ld + width, strip.columns - width);
            }
            if (has_edges(&h, first + i)) {
                high = step->ordered ? ordered_logits(width, half_p, log_total, norm_q[i], degree_scale(&h, first + i),
                                                      norm_v, before, sums, s, root)
                                     : unordered_logits(width, half_p, log_total, norm_q[i], norm_v, s, root);
                total = powers(s, high, width);
            }
            if (total == 0.f) { /* no edges */
                zero(s, width);
                step->log_power[start + i] = INFINITY;
            } else {
                float share = 1.f / total;
                if (step->ordered)
                    for (int j = 0; j < width; j++) s[j] *= root[j] * share;
                else
                    for (int j = 0; j < width; j++) s[j] *= share;
                step->log_power[start + i] = high + log2_or_nan(total);
            }
            zero(s + width, strip.columns - width);
        }
        if (step->ordered)
            for (int j = 0; j < strip.columns; j++) degrees[j] += sums[j];
        product_nn(strip.rows, d, strip.columns, 1.f, scores, h.ld, value, d, 0.f, step->message + start * d, d);
        if (shown)
            product_nn(strip.rows, d, strip.columns, 1.f, shown, h.ld, h.value, d, 0.f, step->context + start * d, d);
    }
}

/* ---- backward pass ---------------------------------------------------------------------------------------------- */

static Row row_of(const Head *h, int i, float norm_q) {
    const Step *x = h->step;
    size_t at = h->of_query + i;
    Row row = {0.5f * x->p, x->log_total[at], x->log_power[at], x->offset[at], norm_q, degree_scale(h, i)};
    return row;
}

/* Rows of [X G; gradients of the messages; gradients of M V] of a strip, one after the other. */
static void stack(const Head *h, Strip strip, float *above, float *norm_q) {
    const Step *x = h->step;
    size_t size = (size_t)strip.rows * h->d, start = h->of_query + strip.first;
    measure(h, strip.rows, h->node + (size_t)strip.first * h->d, above, norm_q);
    for (size_t k = 0; k < size; k++) above[size + k] = x->grad_out[start * h->d + k] * x->kappa[start + k / h->d];
    if (x->grad_context) memcpy(above + 2 * size, x->grad_context + start * h->d, size * sizeof *above);
}

/* From a strip's distances on to the query nodes' features.
 *
 * near: the gradients of x·v r, over -2 (p/2 - 1).
 * grad_norm_q: those of |x|², over p/2 - 1.
 * room: for rows of features. */
static void to_nodes(const Head *h, Strip strip, const float *near, const float *values, const float *grad_norm_q,
                     float *room) {
    const Step *x = h->step;
    const float *node = h->node + (size_t)strip.first * h->d;
    float *grad = x->grad_node + (h->of_query + strip.first) * h->d;
    product_nn(strip.rows, h->d, strip.columns, 1.f, near, h->ld, values, h->d, 0.f, room, h->d);
    for (int k = 0; k < strip.rows * h->d; k++) room[k] = grad_norm_q[k / h->d] * node[k] - room[k];
    if (x->grad_node != x->grad_query) zero(grad, (size_t)strip.rows * h->d);
    add_with_metric(h, strip.rows, x->p - 2.f, room, grad);
}

/* From |v|² on to the values. */
static void to_values(const Head *h, const float *grad_norm_v, float *grad_value, float *room) {
    for (int first = 0; first < h->m; first += h->step->rows) {
        int rows = h->m - first < h->step->rows ? h->m - first : h->step->rows;
        size_t start = (size_t)first * h->d;
        for (int k = 0; k < rows * h->d; k++) room[k] = grad_norm_v[first + k / h->d] * h->value[start + k];
        add_with_metric(h, rows, h->step->p - 2.f, room, grad_value + start);
    }
}

/* From a strip's scores on to queries and keys. */
static void to_scores(const Head *h, Strip strip, const float *grad, float beta) {
    const Step *x = h->step;
    size_t start = (h->of_query + strip.first) * h->d;
    product_nn(strip.rows, h->d, strip.columns, x->scale, grad, h->ld, h->key, h->d, beta, x->grad_query + start, h->d);
    if (x->grad_key)
        product_tn(strip.columns, h->d, strip.rows, x->scale, grad, h->ld, x->query + start, h->d, 1.f,
                   x->grad_key + h->of_value * h->d, h->d);
}

static void backward_ordered(Step *step, Head h, float *room) {
    int d = h.d, stacked = step->grad_context ? 3 : 2, last = (h.n - 1) / step->rows * step->rows;
    size_t strip_size = (size_t)step->rows * h.ld;
    float *scores = part(&room, strip_size), *sums = part(&room, strip_size);
    float *products = part(&room, stacked * strip_size);
    float *above = part(&room, (size_t)stacked * step->rows * d);
    float *total = part(&room, h.ld), *before = part(&room, h.ld), *grad_degree = part(&room, h.ld);
    float *norm_v = part(&room, h.ld), *grad_norm_v = part(&room, h.ld);
    float *norm_q = part(&room, step->rows), *grad_norm_q = part(&room, step->rows);
    double *degrees = (double *)part(&room, 2 * h.ld), grad_p = 0.0;
    float minus = 2.f - step->p;
    float *grad_value = step->grad_value ? step->grad_value + h.of_value * d : NULL;
    memcpy(degrees, step->degrees + h.of_value, h.m * sizeof *degrees);
    zero(grad_degree, h.m);
    zero(grad_norm_v, h.m);
    measure_values(&h, above, norm_v);
    for (int first = last; first >= 0; first -= step->rows) {
        Strip strip = strip_of(&h, first);
        size_t start = h.of_query + first, size = (size_t)strip.rows * d;
        int columns = strip.columns;
        float *dots = products, *ups = dots + strip.rows * h.ld;
        float *up_contexts = step->grad_context ? ups + strip.rows * h.ld : NULL;
        stack(&h, strip, above, norm_q);
        score(&h, strip, scores);
        product_nt(stacked * strip.rows, columns, d, 1.f, above, d, h.value, d, 0.f, products, h.ld);
        for (size_t k = 0; k < size; k++) above[k] *= minus;
        /* take the strip's weights from the degrees */
        zero(total, columns);
        for (int i = 0; i < strip.rows; i++) {
            float *restrict s = scores + i * h.ld, *restrict so_far = sums + i * h.ld;
            if (!has_edges(&h, first + i)) continue;
            float log_total = step->log_total[start + i];
            int width = width_of(&h, first + i);
#pragma omp simd
            for (int j = 0; j < width; j++) so_far[j] = total[j] += weight_of(s[j] - log_total);
        }
        int seen = first == 0 ? 0 : width_of(&h, first - 1); /* no earlier query sees more values */
        for (int j = 0; j < columns; j++) {
            float past = step->past ? step->past[h.of_value + j] : 0.f;
            degrees[j] = j < seen ? degrees[j] - total[j] : past;
            if (degrees[j] < past) degrees[j] = past;
            before[j] = (float)degrees[j];
        }
        for (int i = strip.rows - 1; i >= 0; i--) {
            float *restrict s = scores + i * h.ld, *restrict grad = sums + i * h.ld;
            float *dot = dots + i * h.ld, *up = ups + i * h.ld;
            float *up_context = up_contexts ? up_contexts + i * h.ld : NULL;
            int width = width_of(&h, first + i);
            Row row = row_of(&h, first + i, norm_q[i]);
            if (row.log_power < INFINITY || row.log_power != row.log_power) {
                ordered_row(width, &row, norm_v, before, up_context, s, grad, dot, up, grad_norm_v, grad_degree);
            } else { /* no edges, but perhaps attention */
                weights(s, row.log_total, s, width);
                zero(dot, width);
                zero(up, width);
                for (int j = 0; j < width; j++) {
                    grad[j] = up_context ? s[j] * up_context[j] : 0.f;
                    row.mean += grad[j];
                }
            }
            float mean = row.mean + 0.5f * step->p * step->grad_power[start + i];
            for (int j = 0; j < width; j++) grad[j] -= mean * s[j];
            zero(grad + width, columns - width);
            zero(dot + width, columns - width);
            zero(up + width, columns - width);
            if (up_context) {
                memcpy(up_context, s, width * sizeof *s);
                zero(up_context + width, columns - width);
            }
            grad_norm_q[i] = row.grad_norm_q;
            grad_p += row.grad_p;
        }
        if (grad_value)
            product_tn(columns, d, stacked * strip.rows, 1.f, products, h.ld, above, d, 1.f, grad_value, d);
        to_scores(&h, strip, sums, 0.f);
        to_nodes(&h, strip, dots, h.value, grad_norm_q, above);
    }
    if (grad_value) to_values(&h, grad_norm_v, grad_value, above);
    step->grad_p[h.head] = grad_p;
}

static void backward_unordered(Step *step, Head h, float *room) {
    int d = h.d;
    size_t strip_size = (size_t)step->rows * h.ld;
    float *scores = part(&room, strip_size), *products = part(&room, 2 * strip_size);
    float *above = part(&room, (size_t)3 * step->rows * d), *values = part(&room, (size_t)h.m * d);
    float *root = part(&room, h.ld), *length = part(&room, h.ld), *grad_root = part(&room, h.ld);
    float *grad_norm_v = part(&room, h.ld);
    float *norm_q = part(&room, step->rows), *grad_norm_q = part(&room, step->rows);
    float minus = 2.f - step->p, half_p = 0.5f * step->p;
    float *grad_value = step->grad_value ? step->grad_value + h.of_value * d : NULL;
    double grad_p = 0.0;
    measure_values(&h, above, length);
    lengths_of(&h, step->degrees + h.of_value, root, length);
    scaled_values(&h, root, values);
    zero(grad_root, h.m);
    zero(grad_norm_v, h.m);
    for (int first = 0; first < h.n; first += step->rows) { /* through the messages */
        Strip strip = strip_of(&h, first);
        size_t size = (size_t)strip.rows * d;
        int columns = strip.columns;
        float *dots = products, *ups = dots + strip.rows * h.ld;
        stack(&h, strip, above, norm_q);
        score(&h, strip, scores);
        product_nt(2 * strip.rows, columns, d, 1.f, above, d, values, d, 0.f, products, h.ld);
        for (size_t k = 0; k < size; k++) above[k] *= minus;
        for (int i = 0; i < strip.rows; i++) {
            float *s = scores + i * h.ld, *dot = dots + i * h.ld, *up = ups + i * h.ld;
            int width = width_of(&h, first + i);
            Row row = row_of(&h, first + i, norm_q[i]);
            if (row.log_power < INFINITY || row.log_power != row.log_power) {
                unordered_row(width, &row, length, s, dot, up, grad_norm_v, grad_root);
            } else {
                width = 0;
            }
            zero(s + width, columns - width);
            zero(dot + width, columns - width);
            zero(up + width, columns - width);
            grad_norm_q[i] = row.grad_norm_q;
            grad_p += row.grad_p;
        }
        if (grad_value)
            product_tn(columns, d, 2 * strip.rows, 1.f, products, h.ld, above, d, 1.f, grad_value, d);
        to_scores(&h, strip, scores, 0.f);
        to_nodes(&h, strip, dots, values, grad_norm_q, above);
    }
    float scale = degree_scale(&h, 0), *grad_degree = grad_root;
    for (int j = 0; j < h.m; j++) {
        float inverse = root[j] * root[j];
        grad_norm_v[j] *= inverse;
        grad_degree[j] *= -0.5f * inverse * scale;
        if (grad_value)
            for (int k = 0; k < d; k++) grad_value[(size_t)j * d + k] *= root[j];
    }
    if (grad_value) to_values(&h, grad_norm_v, grad_value, above);
    for (int first = 0; first < h.n; first += step->rows) { /* through degrees, M V and the normaliser of M */
        Strip strip = strip_of(&h, first);
        size_t start = h.of_query + first;
        int columns = strip.columns;
        float *up_contexts = products, *shown = products + strip_size;
        score(&h, strip, scores);
        if (step->grad_context)
            product_nt(strip.rows, columns, d, 1.f, step->grad_context + start * d, d, h.value, d, 0.f, up_contexts,
                       h.ld);
        for (int i = 0; i < strip.rows; i++) {
            float *restrict s = scores + i * h.ld, *restrict w = shown + i * h.ld;
            float *restrict up = up_contexts + i * h.ld;
            int width = width_of(&h, first + i);
            float used = has_edges(&h, first + i) ? 1.f : 0.f, mean = 0.f;
            weights(s, step->log_total[start + i], w, width);
            if (!step->grad_context) zero(up, width);
#pragma omp simd reduction(+ : mean)
            for (int j = 0; j < width; j++) {
                float through = w[j] * (up[j] + used * grad_degree[j]);
                mean += through;
                s[j] = through;
            }
            mean += half_p * step->grad_power[start + i];
            for (int j = 0; j < width; j++) s[j] -= mean * w[j];
            zero(s + width, columns - width);
            zero(w + width, columns - width);
        }
        if (grad_value && step->grad_context)
            product_tn(columns, d, strip.rows, 1.f, shown, h.ld, step->grad_context + start * d, d, 1.f, grad_value, d);
        to_scores(&h, strip, scores, 1.f);
    }
    step->grad_p[h.head] = grad_p;
}

static void backward_head(void *argument, int index) {
    Step *step = argument;
    Head h = head_of(step, index);
    size_t strip_size = (size_t)step->rows * h.ld;
    size_t strips = !step->ordered ? 3 : step->grad_context ? 5 : 4, features = (size_t)step->rows * h.d + ALONE;
    size_t values = step->ordered ? 0 : (size_t)h.m * h.d + ALONE;
    float *room = scratch(strips * strip_size + 3 * features + 7 * h.ld + 2 * (step->rows + ALONE) + values);
    if (!room) {
        step->failed = 1;
        return;
    }
    if (step->grad_key) zero(step->grad_key + h.of_value * h.d, (size_t)h.m * h.d);
    if (step->grad_value) zero(step->grad_value + h.of_value * h.d, (size_t)h.m * h.d);
    if (step->ordered)
        backward_ordered(step, h, room);
    else
        backward_unordered(step, h, room);
}

/* Both return 0, or 1 if there is no memory. */
EXPORT int attngraph_strips(Step *step) {
    step->failed = 0;
    for_each(forward_head, step, step->heads, step->threads);
    return step->failed;
}

EXPORT int attngraph_strips_backward(Step *step) {
    step->failed = 0;
    for_each(backward_head, step, step->heads, step->threads);
    return step->failed;
}
