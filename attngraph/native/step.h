/* Attention and one step of p-Laplacian message passing, forward and backward, a head of an example at a time, so
 * that its edges stay in the processor's cache. adapters/kernels/native.py calls it; what it computes is that of
 * adapters/kernels/fused.py. This file: what both passes share. step.c is the forward pass, step_backward.c the other.
 *
 * Axes: b examples, h heads, n queries, m values, d features. With queries q, keys k, values v, features x of the
 * query nodes (the queries themselves or others), metric G, p and r = 2 mu / p, and all logarithms to base 2:
 *
 *   M   = softmax(scale q kT + mask)               W = M, or under dropout what it keeps of M
 *   d_i = 1, or under dropout the row sums of W    e_j = the column sums of W; in a causal graph those of rows <= i
 *   R2  = |x_i|2/d_i + |v_j|2/e_j - 2 x_i G v_j / sqrt(d_i e_j),  at least SHARE (|x_i|2/d_i + |v_j|2/e_j) + LEAST
 *   z   = p/2 (log W + log R2) - log R2            S_i = sum_j 2^z,  sigma = 2^z / S
 *   msg = sqrt(d_i) sum_j sigma v_j / sqrt(e_j)    kappa = (S/d) / (S/d + r)
 *   out = kappa msg + (1 - kappa) x                context = W v
 *
 * Forward: three products (q kT, x G vT, sigma v), and one (v G) for values whose |v|2 is not known. For the backward pass two
 * numbers for each query are kept, log sum_j 2^score and log S, and e and |v|2 for each value. Backward: five products
 * (the first two again, g vT for the gradient g of out, near v, and the gradient of the scores times k), of which two
 * are made at once; backward_head has the order of the passes. Products with G, of n x d matrices, and those for keys
 * and values come on top. A query without edges has kappa = 0; that its log S is infinite makes its weights 0. */
#ifndef ATTNGRAPH_STEP_H
#define ATTNGRAPH_STEP_H

#include "runtime.h"

_Static_assert(sizeof(void *) == 8, "Python hands over numbers of 8 bytes");

/* A tensor (b, h, rows, columns) whose columns lie one after another. */
typedef struct {
    float *at;
    int64_t example, head, row;
} Rows;

/* What Python hands over, all numbers of 8 bytes; the order of the fields is that of native.py. */
typedef struct {
    int64_t b, h, n, m, d, threads;
    int64_t causal, triangular;
    double scale, growth;         /* of the scores; of the weights that dropout keeps */
    const float *p, *residual;    /* one number each */
    Rows query, key, value, node; /* node: x */
    const float *metric;          /* (h, d, d), or NULL for the identity */
    const void *mask;             /* NULL, or of (b, 1, n, m) with the strides below; bytes or floats */
    int64_t mask_example, mask_row, mask_column, mask_is_bool;
    const uint8_t *valid;         /* (b, n): queries that have edges; or NULL */
    const uint8_t *kept;          /* (b, h, n, m): weights that dropout keeps; or NULL */
    const float *past;            /* (b, h, m): degrees before the first query; or NULL */
    const float *degree_scale;    /* factor of the degrees: (b, n) in causal graphs, else (b); or NULL */
    const float *known;           /* (b, h, n, m): M, 0 where an edge is hidden, in a forward pass alone; or NULL */
    const float *first_norms;     /* (b, h, norms_known): |v|2 of the first values; or NULL */
    int64_t norms_known;          /* if m, norm_v is input */
    Rows out, context;            /* context.at may be NULL */
    float *log_total, *log_sum;   /* (b, h, n): log sum_j 2^score, log S */
    float *degree, *norm_v;       /* (b, h, m): sums of weights at the values, in causal graphs all of them, where
                                     degree may be NULL; |v|2 */
} Step;

/* The forward pass. Returns 0, or 1 if there is no memory. */
EXPORT int attngraph_step(const Step *call);

/* A call for all heads. */
typedef struct {
    const void *call;
    int failed;
} Job;

/* One head of one example. Rows of edges lie `width` apart, a multiple of 8, and loops run over multiples of 8
 * values: those beyond the values that a query sees are hidden, and the numbers there finite. */
typedef struct {
    const Step *step;
    int item, example, n, m, d, width;
    float p_half, residual;
    const float *query, *key, *value, *node, *metric;
    const float *node_g; /* x G, rows node_ld apart */
    long node_ld;
    float *norm_q, *rsqrt_d, *total;        /* of each query: |x|2, 1/sqrt(d), sum_j 2^(z - its largest) */
    float *norm_v, *degree, *root, *length; /* of each value: |v|2, e, 1/sqrt(e), |v|2/e */
    float *score, *dot;                     /* of each edge: scores, x G v */
} Head;

static inline float *of_head(const Rows *x, const Step *a, int item) {
    return x->at ? x->at + (item / a->h) * x->example + (item % a->h) * x->head : NULL;
}

static inline int eights(int count) { return (count + 7) & ~7; }

/* Not a multiple of 128: rows a power of two apart share lines of the cache. */
static inline int width_of(int64_t m) { return eights((int)m) % 128 ? eights((int)m) : eights((int)m) + 8; }

/* What head_of takes from a room. */
static inline size_t nodes_size(const Step *a) {
    return a->n * a->d + 3 * (size_t)eights((int)a->n) + 4 * (size_t)width_of(a->m);
}

/* Take `count` numbers from a room. */
static inline float *take(float **room, size_t count) {
    float *taken = *room;
    *room += count;
    return taken;
}

/* ---- nodes ------------------------------------------------------------------------------------------------- */

/* Scalar products of rows. */
static inline void row_dots(int rows, int d, const float *x, long ldx, const float *y, long ldy, float *out) {
    for (int i = 0; i < rows; i++) {
        const float *a = x + i * ldx, *b = y + i * ldy;
        float total = 0;
        SUM(total) for (int c = 0; c < d; c++) total += a[c] * b[c];
        out[i] = total;
    }
}

/* x G and |x|2 of rows x; returns x G, in `room` where there is a metric. */
static inline const float *with_metric(const Head *t, int rows, const float *x, long ldx, float *room, long *ld,
                                float *norms) {
    const float *x_g = x;
    *ld = ldx;
    if (t->metric) {
        product_nn(rows, t->d, t->d, 1.f, x, ldx, t->metric, t->d, 0.f, room, t->d);
        x_g = room;
        *ld = t->d;
    }
    row_dots(rows, t->d, x_g, *ld, x, ldx, norms);
    return x_g;
}

static inline Head head_of(const Step *a, int item, float **room) {
    Head t = {a, item, (int)(item / a->h), (int)a->n, (int)a->m, (int)a->d, width_of(a->m)};
    t.p_half = .5f * *a->p;
    t.residual = *a->residual;
    t.query = of_head(&a->query, a, item);
    t.key = of_head(&a->key, a, item);
    t.value = of_head(&a->value, a, item);
    t.node = of_head(&a->node, a, item);
    t.metric = a->metric ? a->metric + (item % a->h) * a->d * a->d : NULL;
    float *node_g = take(room, (size_t)t.n * t.d);
    t.norm_q = take(room, eights(t.n));
    t.rsqrt_d = take(room, eights(t.n));
    t.total = take(room, eights(t.n));
    t.node_g = with_metric(&t, t.n, t.node, a->node.row, node_g, &t.node_ld, t.norm_q);
    t.norm_v = take(room, t.width);
    t.degree = take(room, t.width);
    t.root = take(room, t.width);
    t.length = take(room, t.width);
    return t;
}

/* Take |v|2 from where it is kept. */
static inline void known_norms(const Head *t, const float *kept) {
    memcpy(t->norm_v, kept, sizeof(float) * t->m);
    memset(t->norm_v + t->m, 0, sizeof(float) * (t->width - t->m));
}

static inline void scores(const Head *t) {
    const Step *a = t->step;
    float scale = (float)a->scale * LOG2_E;
    product_nt(t->n, t->m, t->d, scale, t->query, a->query.row, t->key, a->key.row, 0.f, t->score, t->width);
}

/* Products of rows x with the values, 0 beyond these. */
static inline void value_products(const Head *t, int rows, const float *x, long ldx, float *out) {
    product_nt(rows, t->m, t->d, 1.f, x, ldx, t->value, t->step->value.row, 0.f, out, t->width);
    for (int i = 0; i < rows; i++)
        for (int j = t->m; j < t->width; j++) out[(size_t)i * t->width + j] = 0;
}

/* The degrees before the first query. */
static inline void first_degrees(const Head *t) {
    memset(t->degree, 0, sizeof(float) * t->width);
    if (t->step->past) memcpy(t->degree, t->step->past + (size_t)t->item * t->m, sizeof(float) * t->m);
}

/* ---- rows of edges ----------------------------------------------------------------------------------------- */

/* Whether query i has edges: padded ones only attend, where M V is wanted. */
static inline int has_edges(const Head *t, int i) {
    const uint8_t *valid = t->step->valid;
    return !valid || valid[(size_t)t->example * t->n + i];
}

/* How many values query i may see, the first ones. */
static inline int seen_by(const Head *t, int i) {
    int most = i + t->m - t->n + 1;
    if (!has_edges(t, i) && !t->step->context.at) return 0;
    return t->step->triangular && most < t->m ? (most > 0 ? most : 0) : t->m;
}

static inline const uint8_t *kept_by(const Head *t, int i) {
    const uint8_t *kept = t->step->kept;
    return kept ? kept + ((size_t)t->item * t->n + i) * t->m : NULL;
}

static inline float degree_scale_of(const Head *t, int i) {
    const Step *a = t->step;
    if (!a->degree_scale) return 1.f;
    return a->degree_scale[a->causal ? (size_t)t->example * t->n + i : (size_t)t->example];
}

static inline void hide(int count, const uint8_t *restrict mask, int64_t next, float *restrict s) {
    SIMD for (int j = 0; j < count; j++) s[j] = mask[j * next] ? s[j] : HIDDEN;
}

static inline void add_mask(int count, const float *restrict mask, int64_t next, float *restrict s) {
    SIMD for (int j = 0; j < count; j++) {
        float x = mask[j * next];
        s[j] = x > HIDES_BELOW ? s[j] + x * LOG2_E : HIDDEN;
    }
}

/* Add the mask to the scores of query i; hide what follows the values that it sees. */
static inline void mask_row(const Head *t, int i, int seen, float *s) {
    const Step *a = t->step;
    int64_t first = t->example * a->mask_example + i * a->mask_row, next = a->mask_column;
    if (a->mask && a->mask_is_bool)
        hide(seen, (const uint8_t *)a->mask + first, next, s);
    else if (a->mask && next == 1) /* the usual case, in vector instructions */
        add_mask(seen, (const float *)a->mask + first, 1, s);
    else if (a->mask)
        add_mask(seen, (const float *)a->mask + first, next, s);
    for (int j = seen; j < eights(seen); j++) s[j] = HIDDEN;
}

/* log of 2^top total; NaN stays NaN. */
static inline float log_sum(float top, float total) { return top + log2_of(total) + (total - total); }

/* Softmax of scores s into w; returns log sum_j 2^s, infinite where no value is seen. */
static inline float softmax_row(int count, const float *restrict s, float *restrict w) {
    float top = HIDDEN / 4, total = 0;
    MAX(top) for (int j = 0; j < count; j++) top = s[j] > top ? s[j] : top;
    SUM(total) for (int j = 0; j < count; j++) {
        float x = exp2_of(s[j] - top);
        w[j] = x;
        total += x;
    }
    if (total == 0) return INFINITY;
    float share = 1 / total;
    SIMD for (int j = 0; j < count; j++) w[j] *= share;
    return log_sum(top, total);
}

/* What dropout leaves of weights w, in place; returns 1/sqrt(d), 1 where nothing is left. */
static inline float drop_row(const uint8_t *restrict kept, float growth, int seen, float *restrict w) {
    float total = 0;
    SUM(total) for (int j = 0; j < seen; j++) {
        float x = kept[j] ? w[j] * growth : 0.f;
        w[j] = x;
        total += x;
    }
    return total <= LEAST ? 1.f : 1 / sqrtf(total);
}

static inline void add_row(int count, const float *restrict x, float *restrict total) {
    SIMD for (int j = 0; j < count; j++) total[j] += x[j];
}

/* 1/sqrt(e) and |v|2/e from sums of weights. */
static inline void degrees_row(const Head *t, int count, float scale) {
    const float *restrict total = t->degree, *restrict norm_v = t->norm_v;
    float *restrict root = t->root, *restrict length = t->length;
    SIMD for (int j = 0; j < count; j++) {
        float e = (total[j] < LEAST ? LEAST : total[j]) * scale;
        float r = 1 / sqrtf(e < LEAST ? LEAST : e);
        root[j] = r;
        length[j] = norm_v[j] * r * r;
    }
}

/* Less than this, R2 is this. */
static inline float least_square(float norm_q, float length) { return SHARE * (length + norm_q) + LEAST; }

/* log R2; `free`, R2 before it is lifted to its least, makes it NaN where that is. */
static inline float log_square(float square, float free) { return log2_of(square) + (free - free); }

/* kappa = 1 / (1 + r inverse) with inverse = d/S; 0 for a query without edges. */
static inline float kappa_of(const Head *t, float log_sum, float inverse) {
    if (log_sum == INFINITY) return 0;
    return t->residual == 0 ? 1.f : 1 / (1 + t->residual * inverse);
}

static inline float beta_of(const Head *t, float kappa) { return t->residual > 0 ? 1 - kappa : 0.f; }

#endif
