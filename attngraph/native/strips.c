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
#include "runtime.h"

#include <stdbool.h>

#define LEAST 1.0842022e-19f   /* weights and degrees at or below this count as 0: the root of the least normal number */
#define LOG_LEAST -63.f        /* its logarithm */
#define SHARE 9.5367432e-7f    /* R² is at least this times |x|² + |v|²/e, 8 ε, and LEAST more */
#define APART __attribute__((noinline)) /* else the compiler forgets that arrays do not overlap */
#define ALONE 16               /* floats of a cache line */

typedef enum { NO_MASK, VISIBLE, ADDED } MaskKind;

/* One call. Arrays are stored row by row without gaps, but for the mask and the degrees' scale: these have strides, 0
 * where numbers are shared. */
typedef struct {
    int heads, heads_per_example, queries, values, features, rows, threads;
    int ordered, triangular; /* triangular: query i sees values up to i + values - queries */
    int mask_kind, failed;   /* failed: no memory */
    float p, scale, hides_below; /* an added mask at or below hides_below hides an edge */
    long mask_example, mask_row, mask_column, scale_example, scale_row;
    const void *mask;          /* bool or float */
    const uint8_t *valid;      /* [example, n]: queries that have edges; NULL: all */
    const float *past;         /* [g, m]: degrees of earlier queries; NULL: none */
    const float *degree_scale; /* [example, n]: what degrees are multiplied by; NULL: 1 */
    const float *query, *key, *value, *node_g; /* [g, n, d], [g, m, d], [g, m, d], [g, n, d]: the last is X G */
    const float *norm_q, *norm_v;              /* [g, n], [g, m]: squared lengths in the metric */
    /* results of the forward pass */
    float *log_total, *log_power; /* [g, n]: log2 Σ 2^s; log2 Σ 2^z, infinite for a query without edges */
    float *message;  /* [g, n, d] */
    float *context;  /* [g, n, d]: M V, also of queries that are not valid; NULL: not wanted */
    double *degrees; /* [g, m]: after all queries */
    /* for the backward pass */
    const float *grad_message, *offset, *grad_power; /* [g, n, d], [g, n], [g, n] */
    const float *grad_context;                       /* [g, n, d] or NULL */
    float *grad_query, *grad_key;     /* [g, n, d]; [g, m, d] or NULL */
    float *grad_value;                /* [g, m, d] or NULL: but for |v|² */
    float *grad_node_g;               /* [g, n, d]: through x·v, over -2 (p/2 - 1) */
    float *grad_norm_q, *grad_norm_v; /* [g, n], [g, m]: over p/2 - 1 */
    double *grad_p;                   /* [g]: over ln 2 / 2 */
} Step;

/* A head's part of the call, and the room that strips share. */
typedef struct {
    const Step *step;
    int head, n, m, d;
    long ld; /* of arrays with a row for each query of a strip, and a column for each value */
    const float *query, *key, *value, *node_g, *norm_q, *norm_v;
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
    h.node_g = step->node_g + h.of_query * h.d;
    h.norm_q = step->norm_q + h.of_query;
    h.key = step->key + h.of_value * h.d;
    h.value = step->value + h.of_value * h.d;
    h.norm_v = step->norm_v + h.of_value;
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

/* ---- rows ------------------------------------------------------------------------------------------------------ */

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
        float least = x->hides_below;
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

static APART float highest(const float *restrict x, int count) {
    float high = HIDDEN / 4;
#pragma omp simd reduction(max : high)
    for (int j = 0; j < count; j++) high = x[j] > high ? x[j] : high;
    return high;
}

/* log2 that is NaN for NaN. */
static inline float log2_or_nan(float x) { return log2_of(x) + 0.f * x; }

/* log2 Σ 2^s; 0 where nothing is seen. */
static APART float log_sum(const float *restrict s, int count) {
    float high = highest(s, count), total = 0.f;
#pragma omp simd reduction(+ : total)
    for (int j = 0; j < count; j++) total += exp2_of(s[j] - high);
    return total == 0.f ? 0.f : high + log2_or_nan(total);
}

/* M from log2 M. */
static inline float weight_of(float log_weight) { return where(!(log_weight < LOG_LEAST), exp2_of(log_weight)); }

static APART void weights(const float *s, float log_total, float *w, int count) {
#pragma omp simd
    for (int j = 0; j < count; j++) w[j] = weight_of(s[j] - log_total);
}

static inline float rsqrt_degree(float total, float scale) {
    total = total < LEAST ? LEAST : total;
    total *= scale;
    total = total < LEAST ? LEAST : total;
    return 1.f / sqrtf(total);
}

/* What there is to know of an edge's distance. */
typedef struct {
    float square;
    bool lifted; /* to its least value, which depends on lengths alone */
} Distance;

static inline Distance distance_of(float norm_q, float length, float dot) {
    float both = norm_q + length, square = both - 2.f * dot, least = SHARE * both + LEAST;
    return (Distance){square < least ? least : square, square < least};
}

static inline float logit_of(float log_weight, float square, float half_p) {
    float log_square = log2_or_nan(square), z = half_p * (log_weight + log_square) - log_square;
    return log_weight < LOG_LEAST ? HIDDEN : z;
}

/* 2^(z - high), in place; returns the sum. */
static APART float powers(float *restrict z, float high, int count) {
    float total = 0.f;
#pragma omp simd reduction(+ : total)
    for (int j = 0; j < count; j++) {
        float power = where(!(z[j] < HIDDEN / 2), exp2_of(z[j] - high));
        total += power;
        z[j] = power;
    }
    return total;
}

/* Degrees as roots at the values: 1/√e, and |v|²/e. */
static void lengths_of(const Head *h, const double *degrees, float *root, float *length) {
    float scale = degree_scale(h, 0);
    for (int j = 0; j < h->m; j++) {
        root[j] = rsqrt_degree((float)degrees[j], scale);
        length[j] = h->norm_v[j] * root[j] * root[j];
    }
}

static void scaled_values(const Head *h, const float *root, float *values) {
    for (int j = 0; j < h->m; j++)
        for (int k = 0; k < h->d; k++) values[(size_t)j * h->d + k] = root[j] * h->value[(size_t)j * h->d + k];
}

/* ---- forward pass ----------------------------------------------------------------------------------------------- */

/* z of a row where degrees are those of the queries so far; adds its weights to `sums`. Puts z in place of scores, and
 * 1/√e in place of x·v; returns the highest z. */
static APART float ordered_logits(int count, float half_p, float log_total, float norm_q, float scale,
                            const float *restrict norm_v, const float *restrict before, float *restrict sums,
                            float *restrict s, float *restrict dot) {
    float high = HIDDEN / 4;
#pragma omp simd reduction(max : high)
    for (int j = 0; j < count; j++) {
        float log_weight = s[j] - log_total;
        float total = sums[j] + weight_of(log_weight);
        sums[j] = total;
        float root = rsqrt_degree(before[j] + total, scale);
        float square = distance_of(norm_q, norm_v[j] * root * root, dot[j] * root).square;
        float z = logit_of(log_weight, square, half_p);
        dot[j] = root;
        s[j] = z;
        high = z > high ? z : high;
    }
    return high;
}

/* The same where degrees are known; the values in x·v are over √e already. */
static APART float unordered_logits(int count, float half_p, float log_total, float norm_q, const float *restrict length,
                              float *restrict s, const float *restrict dot) {
    float high = HIDDEN / 4;
#pragma omp simd reduction(max : high)
    for (int j = 0; j < count; j++) {
        float z = logit_of(s[j] - log_total, distance_of(norm_q, length[j], dot[j]).square, half_p);
        s[j] = z;
        high = z > high ? z : high;
    }
    return high;
}

static void forward_head(void *argument, int index) {
    Step *step = argument;
    Head h = head_of(step, index);
    int d = h.d;
    size_t strip_size = (size_t)step->rows * h.ld, values_size = step->ordered ? 0 : (size_t)h.m * d;
    float *room = scratch((step->context ? 3 : 2) * strip_size + 2 * h.ld + values_size + ALONE);
    if (!room) {
        step->failed = 1;
        return;
    }
    float *scores = part(&room, strip_size), *dots = part(&room, strip_size);
    float *shown = step->context ? part(&room, strip_size) : NULL;
    float *sums = part(&room, h.ld), *before = part(&room, h.ld); /* unordered: |v|²/e and 1/√e */
    const float *value = h.value;
    double *degrees = step->degrees + h.of_value;
    for (int j = 0; j < h.m; j++) degrees[j] = step->past ? step->past[h.of_value + j] : 0.0;
    float half_p = 0.5f * step->p;
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
        lengths_of(&h, degrees, before, sums);
        float *values = part(&room, values_size);
        scaled_values(&h, before, values);
        value = values;
    }
    for (int first = 0; first < h.n; first += step->rows) {
        Strip strip = strip_of(&h, first);
        size_t start = h.of_query + first;
        score(&h, strip, scores);
        product_nt(strip.rows, strip.columns, d, 1.f, h.node_g + (size_t)first * d, d, value, d, 0.f, dots, h.ld);
        if (step->ordered) {
            zero(sums, strip.columns);
            for (int j = 0; j < strip.columns; j++) before[j] = (float)degrees[j];
        }
        for (int i = 0; i < strip.rows; i++) {
            float *restrict s = scores + i * h.ld, *restrict root = dots + i * h.ld, high = 0.f, total = 0.f;
            int width = width_of(&h, first + i);
            if (step->ordered) step->log_total[start + i] = log_sum(s, width);
            float log_total = step->log_total[start + i], norm_q = h.norm_q[first + i];
            if (shown) {
                weights(s, log_total, shown + i * h.ld, width);
                zero(shown + i * h.ld + width, strip.columns - width);
            }
            if (has_edges(&h, first + i)) {
                high = step->ordered ? ordered_logits(width, half_p, log_total, norm_q, degree_scale(&h, first + i),
                                                      h.norm_v, before, sums, s, root)
                                     : unordered_logits(width, half_p, log_total, norm_q, sums, s, root);
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

/* A query's numbers in the backward pass, and what a row adds up. */
typedef struct {
    float half_p, log_total, log_power, offset, norm_q, scale;
    float grad_norm_q, grad_p, mean;
} Row;

static Row row_of(const Head *h, int i) {
    const Step *x = h->step;
    size_t at = h->of_query + i;
    Row row = {0.5f * x->p, x->log_total[at], x->log_power[at], x->offset[at], h->norm_q[i], degree_scale(h, i)};
    return row;
}

/* Gradients that go on from an edge. */
typedef struct {
    float sigma, logit; /* σ and t */
    float dot, norm;    /* of x·v r, over -2 (p/2 - 1), and of the lengths, over p/2 - 1 */
    float root;         /* of log r, also through the messages */
    float log_sum;      /* not a gradient: log2 M + log2 R² */
} Edge;

static inline Edge edge_of(float log_weight, float length, float dot, float up, const Row *row) {
    Distance distance = distance_of(row->norm_q, length, dot);
    float half = row->half_p - 1.f, inverse = 1.f / distance.square, log_sum = log_weight + log2_or_nan(distance.square);
    float sigma = exp2_of(row->half_p * log_sum - row->log_power) * inverse;
    sigma = where(!(log_weight < LOG_LEAST), sigma);
    float logit = (up - row->offset) * sigma, near = logit * inverse;
    float norm = distance.lifted ? SHARE * near : near;
    float moved = distance.lifted ? 2.f * length * norm : logit + near * (length - row->norm_q);
    float root = logit + sigma * row->offset + half * moved;
    return (Edge){sigma, logit, distance.lifted ? 0.f : near, norm, root, log_sum};
}

/* A row where degrees depend on the query. In place of x·v and g·v come what they are multiplied with on the way to
 * queries and values; in place of scores, weights; in place of `sums` (the degrees that the strip's queries add up to
 * this one), the gradient of scores. `grad_degree` holds those of degrees from this query on. */
static APART void ordered_row(int count, Row *row, const float *restrict norm_v, const float *restrict before,
                        const float *restrict up_context, float *restrict s, float *restrict sums, float *restrict dot,
                        float *restrict up, float *restrict grad_norm_v, float *restrict grad_degree) {
    Row x = *row;
    float grad_norm_q = 0.f, grad_p = 0.f, mean = 0.f;
#pragma omp simd reduction(+ : grad_norm_q, grad_p, mean)
    for (int j = 0; j < count; j++) {
        float log_weight = s[j] - x.log_total, weight = weight_of(log_weight);
        float root = rsqrt_degree(before[j] + sums[j], x.scale), inverse = root * root;
        Edge edge = edge_of(log_weight, norm_v[j] * inverse, dot[j] * root, up[j] * root, &x);
        grad_p += edge.logit * edge.log_sum;
        grad_norm_q += edge.norm;
        grad_norm_v[j] += edge.norm * inverse;
        float degree = grad_degree[j] - 0.5f * edge.root * inverse * x.scale;
        grad_degree[j] = degree;
        float through = weight * degree;
        mean += through;
        s[j] = weight;
        sums[j] = x.half_p * edge.logit + through;
        dot[j] = edge.dot * root;
        up[j] = edge.sigma * root;
    }
    if (up_context) {
#pragma omp simd reduction(+ : mean)
        for (int j = 0; j < count; j++) {
            float through = s[j] * up_context[j];
            mean += through;
            sums[j] += through;
        }
    }
    row->grad_norm_q = grad_norm_q, row->grad_p = grad_p, row->mean = mean;
}

/* The same where degrees are known, and values are over √e; the scores become their gradients but for those through M's
 * normaliser and degrees. */
static APART void unordered_row(int count, Row *row, const float *restrict length, float *restrict s, float *restrict dot,
                          float *restrict up, float *restrict grad_norm_v, float *restrict grad_root) {
    Row x = *row;
    float grad_norm_q = 0.f, grad_p = 0.f;
#pragma omp simd reduction(+ : grad_norm_q, grad_p)
    for (int j = 0; j < count; j++) {
        Edge edge = edge_of(s[j] - x.log_total, length[j], dot[j], up[j], &x);
        grad_p += edge.logit * edge.log_sum;
        grad_norm_q += edge.norm;
        grad_norm_v[j] += edge.norm;
        grad_root[j] += edge.root;
        s[j] = x.half_p * edge.logit;
        dot[j] = edge.dot;
        up[j] = edge.sigma;
    }
    row->grad_norm_q = grad_norm_q, row->grad_p = grad_p;
}

/* Rows of [X G; gradients of the messages; gradients of M V] of a strip, one after the other. */
static void stack(const Head *h, Strip strip, float *above) {
    const Step *x = h->step;
    size_t size = (size_t)strip.rows * h->d, start = (h->of_query + strip.first) * h->d;
    memcpy(above, x->node_g + start, size * sizeof *above);
    memcpy(above + size, x->grad_message + start, size * sizeof *above);
    if (x->grad_context) memcpy(above + 2 * size, x->grad_context + start, size * sizeof *above);
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
    float *scores = part(&room, strip_size), *sums = part(&room, strip_size), *products = part(&room, stacked * strip_size);
    float *above = part(&room, (size_t)stacked * step->rows * d);
    float *total = part(&room, h.ld), *before = part(&room, h.ld), *grad_degree = part(&room, h.ld);
    double *degrees = (double *)part(&room, 2 * h.ld), grad_p = 0.0;
    float *grad_norm_v = step->grad_norm_v + h.of_value, minus = 2.f - step->p;
    float *grad_value = step->grad_value ? step->grad_value + h.of_value * d : NULL;
    memcpy(degrees, step->degrees + h.of_value, h.m * sizeof *degrees);
    zero(grad_degree, h.m);
    for (int first = last; first >= 0; first -= step->rows) {
        Strip strip = strip_of(&h, first);
        size_t start = h.of_query + first, size = (size_t)strip.rows * d;
        int columns = strip.columns;
        float *dots = products, *ups = dots + strip.rows * h.ld;
        float *up_contexts = step->grad_context ? ups + strip.rows * h.ld : NULL;
        stack(&h, strip, above);
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
            Row row = row_of(&h, first + i);
            if (row.log_power < INFINITY || row.log_power != row.log_power) {
                ordered_row(width, &row, h.norm_v, before, up_context, s, grad, dot, up, grad_norm_v, grad_degree);
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
            step->grad_norm_q[start + i] = row.grad_norm_q;
            grad_p += row.grad_p;
        }
        product_nn(strip.rows, d, columns, 1.f, dots, h.ld, h.value, d, 0.f, step->grad_node_g + start * d, d);
        if (grad_value)
            product_tn(columns, d, stacked * strip.rows, 1.f, products, h.ld, above, d, 1.f, grad_value, d);
        to_scores(&h, strip, sums, 0.f);
    }
    step->grad_p[h.head] = grad_p;
}

static void backward_unordered(Step *step, Head h, float *room) {
    int d = h.d;
    size_t strip_size = (size_t)step->rows * h.ld;
    float *scores = part(&room, strip_size), *products = part(&room, 2 * strip_size);
    float *above = part(&room, (size_t)3 * step->rows * d), *values = part(&room, (size_t)h.m * d);
    float *root = part(&room, h.ld), *length = part(&room, h.ld), *grad_root = part(&room, h.ld);
    float *grad_norm_v = step->grad_norm_v + h.of_value, minus = 2.f - step->p, half_p = 0.5f * step->p;
    float *grad_value = step->grad_value ? step->grad_value + h.of_value * d : NULL;
    double grad_p = 0.0;
    lengths_of(&h, step->degrees + h.of_value, root, length);
    scaled_values(&h, root, values);
    zero(grad_root, h.m);
    for (int first = 0; first < h.n; first += step->rows) { /* through the messages */
        Strip strip = strip_of(&h, first);
        size_t start = h.of_query + first, size = (size_t)strip.rows * d;
        int columns = strip.columns;
        float *dots = products, *ups = dots + strip.rows * h.ld;
        stack(&h, strip, above);
        score(&h, strip, scores);
        product_nt(2 * strip.rows, columns, d, 1.f, above, d, values, d, 0.f, products, h.ld);
        for (size_t k = 0; k < size; k++) above[k] *= minus;
        for (int i = 0; i < strip.rows; i++) {
            float *s = scores + i * h.ld, *dot = dots + i * h.ld, *up = ups + i * h.ld;
            int width = width_of(&h, first + i);
            Row row = row_of(&h, first + i);
            if (row.log_power < INFINITY || row.log_power != row.log_power) {
                unordered_row(width, &row, length, s, dot, up, grad_norm_v, grad_root);
            } else {
                width = 0;
            }
            zero(s + width, columns - width);
            zero(dot + width, columns - width);
            zero(up + width, columns - width);
            step->grad_norm_q[start + i] = row.grad_norm_q;
            grad_p += row.grad_p;
        }
        product_nn(strip.rows, d, columns, 1.f, dots, h.ld, values, d, 0.f, step->grad_node_g + start * d, d);
        if (grad_value)
            product_tn(columns, d, 2 * strip.rows, 1.f, products, h.ld, above, d, 1.f, grad_value, d);
        to_scores(&h, strip, scores, 0.f);
    }
    float scale = degree_scale(&h, 0), *grad_degree = grad_root;
    for (int j = 0; j < h.m; j++) {
        float inverse = root[j] * root[j];
        grad_norm_v[j] *= inverse;
        grad_degree[j] *= -0.5f * inverse * scale;
        if (grad_value)
            for (int k = 0; k < d; k++) grad_value[(size_t)j * d + k] *= root[j];
    }
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
            float *restrict s = scores + i * h.ld, *restrict w = shown + i * h.ld, *restrict up = up_contexts + i * h.ld;
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
    float *room = scratch((step->ordered && step->grad_context ? 5 : 4) * strip_size + 3 * ((size_t)step->rows * h.d + ALONE) + 5 * h.ld +
                          (step->ordered ? 0 : (size_t)h.m * h.d + ALONE));
    if (!room) {
        step->failed = 1;
        return;
    }
    zero(step->grad_norm_v + h.of_value, h.m);
    if (step->grad_key) zero(step->grad_key + h.of_value * h.d, (size_t)h.m * h.d);
    if (step->grad_value) zero(step->grad_value + h.of_value * h.d, (size_t)h.m * h.d);
    if (step->ordered)
        backward_ordered(step, h, room);
    else
        backward_unordered(step, h, room);
}

/* Both return whether they are done; they are not where there is no memory. */
EXPORT int attngraph_strips(Step *step) {
    step->failed = 0;
    for_each(forward_head, step, step->heads, step->threads);
    return !step->failed;
}

EXPORT int attngraph_strips_backward(Step *step) {
    step->failed = 0;
    for_each(backward_head, step, step->heads, step->threads);
    return !step->failed;
}
