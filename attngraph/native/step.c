/* Attention and one step of p-Laplacian message passing, forward and backward, a head of an example at a time, so
 * that its edges stay in the processor's cache. adapters/kernels/native.py calls it; what it computes is that of
 * adapters/kernels/fused.py.
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
 * Forward: three products (q kT, x G vT, sigma v), and one (v G) unless |v|2 is known. For the backward pass two
 * numbers for each query are kept, log sum_j 2^score and log S, and e and |v|2 for each value. Backward: five products
 * (the first two again, g vT for the gradient g of out, near v, and the gradient of the scores times k), of which two
 * are made at once; backward_head has the order of the passes. Products with G, of n x d matrices, and those for keys
 * and values come on top. A query without edges has kappa = 0; that its log S is infinite makes its weights 0. */
#include "runtime.h"

#include <float.h>

#define HIDES_BELOW -9e3f              /* a mask at or below this hides an edge */
#define SHARE (8 * FLT_EPSILON)        /* R2 is at least this share of the lengths, */
#define LEAST 1.0842021724855044e-19f /* and this; weights and degrees at or below it count as 0 */
#define SIMD _Pragma("omp simd")
#define SUM(...) _Pragma(TEXT(omp simd reduction(+ : __VA_ARGS__)))
#define MAX(x) _Pragma(TEXT(omp simd reduction(max : x)))
#define TEXT(...) #__VA_ARGS__

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
    int64_t norms_known;          /* whether norm_v is input */
    Rows out, context;            /* context.at may be NULL */
    float *log_total, *log_sum;   /* (b, h, n): log sum_j 2^score, log S */
    float *degree, *norm_v;       /* (b, h, m): e (not used in causal graphs), |v|2 */
} Step;

typedef struct {
    Step step; /* as after the forward pass, but out and context are the gradients that come from there */
    Rows grad_query, grad_key, grad_value, grad_node; /* results; at is NULL where one is not wanted, and
                                                         grad_node's where the node's feature is the query */
    float *grad_numbers;                              /* of p and of the residual */
    double *parts;                                    /* (b, h, 2): each head's part of them */
} Backward;

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

static float *of_head(const Rows *x, const Step *a, int item) {
    return x->at ? x->at + (item / a->h) * x->example + (item % a->h) * x->head : NULL;
}

static inline int eights(int count) { return (count + 7) & ~7; }

/* Not a multiple of 128: rows a power of two apart share lines of the cache. */
static int width_of(int64_t m) { return eights((int)m) % 128 ? eights((int)m) : eights((int)m) + 8; }

/* What head_of takes from a room. */
static size_t nodes_size(const Step *a) {
    return a->n * a->d + 3 * (size_t)eights((int)a->n) + 4 * (size_t)width_of(a->m);
}

/* Take `count` numbers from a room. */
static float *take(float **room, size_t count) {
    float *taken = *room;
    *room += count;
    return taken;
}

/* ---- nodes ------------------------------------------------------------------------------------------------- */

/* Scalar products of rows. */
static void row_dots(int rows, int d, const float *x, long ldx, const float *y, long ldy, float *out) {
    for (int i = 0; i < rows; i++) {
        const float *a = x + i * ldx, *b = y + i * ldy;
        float total = 0;
        SUM(total) for (int c = 0; c < d; c++) total += a[c] * b[c];
        out[i] = total;
    }
}

/* x G and |x|2 of rows x; returns x G, in `room` where there is a metric. */
static const float *with_metric(const Head *t, int rows, const float *x, long ldx, float *room, long *ld,
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

static Head head_of(const Step *a, int item, float **room) {
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
static void known_norms(const Head *t, const float *kept) {
    memcpy(t->norm_v, kept, sizeof(float) * t->m);
    memset(t->norm_v + t->m, 0, sizeof(float) * (t->width - t->m));
}

static void scores(const Head *t) {
    const Step *a = t->step;
    float scale = (float)a->scale * LOG2_E;
    product_nt(t->n, t->m, t->d, scale, t->query, a->query.row, t->key, a->key.row, 0.f, t->score, t->width);
}

/* Products of rows x with the values, 0 beyond these. */
static void value_products(const Head *t, int rows, const float *x, long ldx, float *out) {
    product_nt(rows, t->m, t->d, 1.f, x, ldx, t->value, t->step->value.row, 0.f, out, t->width);
    for (int i = 0; i < rows; i++)
        for (int j = t->m; j < t->width; j++) out[(size_t)i * t->width + j] = 0;
}

/* The degrees before the first query. */
static void first_degrees(const Head *t) {
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
        s[j] = x <= HIDES_BELOW ? HIDDEN : s[j] + x * LOG2_E;
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

/* ---- forward ----------------------------------------------------------------------------------------------- */

/* The weights w of query i, which are added to the degrees; returns log sum_j 2^score. */
static inline float weigh_row(const Head *t, int i, float *w) {
    const uint8_t *kept = kept_by(t, i);
    float *s = t->score + (size_t)i * t->width;
    int seen = seen_by(t, i), count = eights(seen);
    mask_row(t, i, seen, s);
    float log_total = softmax_row(count, s, w);
    t->rsqrt_d[i] = kept ? drop_row(kept, (float)t->step->growth, seen, w) : 1.f;
    if (has_edges(t, i)) add_row(count, w, t->degree);
    for (int j = count; j < t->m; j++) w[j] = 0;
    return log_total;
}

/* The weights 2^(z - top) / sqrt(e) of the messages to query i, in the place of its products x G v; w is W.
 * Returns log S, infinite without edges. */
static inline float send_row(const Head *t, int i, float log_total, const float *restrict w) {
    const float *restrict root = t->root, *restrict length = t->length;
    const float *restrict s = t->score + (size_t)i * t->width;
    float *restrict dot = t->dot + (size_t)i * t->width;
    int count = has_edges(t, i) ? eights(seen_by(t, i)) : 0;
    float p_half = t->p_half, rsqrt_d = t->rsqrt_d[i], norm_q = t->norm_q[i] * rsqrt_d * rsqrt_d;
    float top = HIDDEN / 4, total = 0;
    SIMD for (int j = 0; j < count; j++) {
        float free = length[j] + norm_q - 2 * rsqrt_d * dot[j] * root[j];
        float least = least_square(norm_q, length[j]), square = free < least ? least : free;
        dot[j] = p_half * (s[j] - log_total) + (p_half - 1) * log_square(square, free);
    }
    if (t->step->kept)
        SIMD for (int j = 0; j < count; j++) dot[j] = w[j] <= LEAST ? HIDDEN : dot[j];
    MAX(top) for (int j = 0; j < count; j++) top = dot[j] > top ? dot[j] : top;
    SUM(total) for (int j = 0; j < count; j++) {
        float x = exp2_of(dot[j] - top);
        total += x;
        dot[j] = x * root[j];
    }
    for (int j = count; j < t->m; j++) dot[j] = 0;
    t->total[i] = total;
    return total == 0 ? INFINITY : log_sum(top, total);
}

typedef struct {
    const void *call;
    int failed;
} Job;

/* Passes over all rows: weights and degrees, then messages; in a causal graph, where a row's degrees are known with
 * it, both at once. */
static void forward_head(void *argument, int item) {
    Job *job = argument;
    const Step *a = job->call;
    size_t edges = (size_t)a->n * width_of(a->m), values = (size_t)a->m * a->d;
    int whole = a->context.at || a->kept; /* whether weights are needed again */
    size_t rows = 2 * edges + (whole ? edges : (size_t)width_of(a->m));
    float *room = scratch(nodes_size(a) + (rows > values ? rows : values));
    if (!room) {
        job->failed = 1;
        return;
    }
    Head t = head_of(a, item, &room);
    int n = t.n, m = t.m, d = t.d, width = t.width;
    float *norm_v = a->norm_v + (size_t)item * m;
    long ld;
    if (!a->norms_known) with_metric(&t, m, t.value, a->value.row, room, &ld, norm_v);
    known_norms(&t, norm_v);
    t.score = take(&room, edges);
    t.dot = take(&room, edges);
    scores(&t);
    value_products(&t, n, t.node_g, t.node_ld, t.dot);
    first_degrees(&t);
    float *log_total = a->log_total + (size_t)item * n, *log_sum = a->log_sum + (size_t)item * n;
    float *out = of_head(&a->out, a, item), *context = of_head(&a->context, a, item);
    float *weight = room, log_growth = log2_of((float)a->growth);
    size_t next = whole ? width : 0; /* from one row of weights to that of the next query */
    for (int i = 0; i < n; i++) {
        log_total[i] = weigh_row(&t, i, weight + i * next);
        if (!a->causal) continue;
        degrees_row(&t, eights(seen_by(&t, i)), degree_scale_of(&t, i));
        log_sum[i] = send_row(&t, i, log_total[i] - log_growth, weight + i * next);
    }
    if (!a->causal) {
        memcpy(a->degree + (size_t)item * m, t.degree, sizeof(float) * m);
        degrees_row(&t, width, degree_scale_of(&t, 0));
        for (int i = 0; i < n; i++)
            log_sum[i] = send_row(&t, i, log_total[i] - log_growth, weight + i * next);
    }
    if (context) product_nn(n, d, m, 1.f, weight, width, t.value, a->value.row, 0.f, context, a->context.row);
    product_nn(n, d, m, 1.f, t.dot, width, t.value, a->value.row, 0.f, out, a->out.row);
    for (int i = 0; i < n; i++) {
        float r = t.rsqrt_d[i], kappa = kappa_of(&t, log_sum[i], exp2_of(-log_sum[i]) / (r * r));
        float factor = kappa == 0 ? 0 : kappa / (r * t.total[i]), beta = beta_of(&t, kappa);
        float *to = out + i * a->out.row;
        const float *node = t.node + i * a->node.row;
        SIMD for (int c = 0; c < d; c++) to[c] = factor * to[c] + beta * node[c];
    }
}

/* Returns 0, or 1 if there is no memory. */
EXPORT int attngraph_step(const Step *call) {
    Job job = {call, 0};
    for_each(forward_head, &job, (int)(call->b * call->h), (int)call->threads);
    return job.failed;
}

/* ---- backward ---------------------------------------------------------------------------------------------- */

/* What the rows of a head's backward pass read and fill in, besides Head. */
typedef struct {
    const float *grad_out, *grad_context; /* (n, d): g, in rows of d; the latter may be NULL */
    const float *log_total, *log_sum;
    float *message;  /* of each edge: g v, which becomes the factor of g in the gradient of v */
    float *through;  /* of each edge: the gradient of z, which becomes that of the score */
    float *by_query; /* of each edge in a causal graph: what its query adds to the gradient of e; else NULL */
    float *degree;   /* of each value: the gradient of log 1/sqrt(e), which becomes that of e */
    float *norm_v;   /* of each value: the gradient of |v|2 over p/2 - 1; NULL where values get none */
    float *beta;     /* of each query: 1 - kappa */
    float *norm_q, *sum, *d; /* of each query: the gradients of |x|2 over p/2 - 1, of log S, and of d */
    float *row, *near;       /* rooms for a row */
    double grad_p, grad_residual;
} Back;

/* Back from the message to query i and its kappa. Its scores become M, its products x G v the factors of v in the
 * gradient of x G over -2 (p/2 - 1). With pulled = kappa g msg - (gradient of log S), the gradients are
 *
 *   of z:              x = sigma (kappa sqrt(d) g v / sqrt(e) - pulled)
 *   of R2:             (p/2 - 1) near,  near = x / R2
 *   of log 1/sqrt(e):  x + sigma pulled + (p/2 - 1) near (R2 + |v|2/e - |x|2/d)
 *
 * but where R2 is SHARE of the lengths, near = SHARE x / R2, the bracket is 2 |v|2/e, and x G v gets nothing. */
static inline void back_row(const Head *t, Back *b, int i) {
    const Step *a = t->step;
    const uint8_t *kept = kept_by(t, i);
    const float *restrict root = t->root, *restrict length = t->length;
    size_t first = (size_t)i * t->width;
    float *restrict s = t->score + first, *restrict dot = t->dot + first;
    float *restrict x = b->through + first, *restrict message = b->message + first;
    float *restrict row = b->row, *restrict near = b->near;
    float p_half = t->p_half, half = p_half - 1, log_total = b->log_total[i], log_sum = b->log_sum[i];
    int seen = log_total == INFINITY ? 0 : seen_by(t, i), count = eights(seen);
    float r = 1; /* 1/sqrt(d) */
    mask_row(t, i, seen, s);
    SIMD for (int j = 0; j < count; j++) {
        row[j] = s[j] - log_total;
        s[j] = near[j] = exp2_of(row[j]);
    }
    if (kept) r = drop_row(kept, (float)a->growth, seen, near);
    for (int j = count; j < t->width; j++) s[j] = 0;
    if (!has_edges(t, i)) count = 0;
    if (a->causal) {
        add_row(count, near, t->degree);
        degrees_row(t, count, degree_scale_of(t, i));
    }
    float norm_q = t->norm_q[i] * r * r, up = 0, log_growth = log2_of((float)a->growth);
    SIMD for (int j = 0; j < count; j++) {
        float free = length[j] + norm_q - 2 * r * dot[j] * root[j], least = least_square(norm_q, length[j]);
        float square = free < least ? least : free, log_r = log_square(square, free);
        row[j] += log_r + log_growth;
        float sigma = exp2_of(p_half * row[j] - log_r - log_sum);
        message[j] *= root[j];
        x[j] = sigma;
        dot[j] = free < least ? -square : square; /* lifted */
    }
    if (kept)
        SIMD for (int j = 0; j < count; j++) x[j] = near[j] <= LEAST ? 0 : x[j];
    SUM(up) for (int j = 0; j < count; j++) up += x[j] * message[j];
    up /= r;

    const float *g = b->grad_out + (size_t)i * t->d, *node = t->node + i * a->node.row;
    float own = 0, inverse = exp2_of(-log_sum) / (r * r), kappa = kappa_of(t, log_sum, inverse);
    SUM(own) for (int c = 0; c < t->d; c++) own += g[c] * node[c];
    float apart = up - own, total = 1 / inverse + t->residual;
    float grad_sum = kappa * (1 - kappa) * apart, pulled = kappa * up - grad_sum;
    if (kappa != 0) b->grad_residual -= kappa * apart / (total < FLT_MIN ? FLT_MIN : total);

    float grad_p = 0, grad_norm_q = 0, along = 0, factor = kappa / r;
    SUM(grad_p, grad_norm_q, along) for (int j = 0; j < count; j++) {
        float sigma = x[j], square = fabsf(dot[j]), grad = sigma * (factor * message[j] - pulled);
        int lifted = dot[j] < 0;
        float share = grad / square * (lifted ? SHARE : 1.f), free = lifted ? 0 : share;
        grad_p += grad * row[j];
        grad_norm_q += share;
        along += free * (length[j] + norm_q - square);
        float of_root = lifted ? 2 * length[j] : square + length[j] - norm_q;
        row[j] = factor * sigma * message[j] + half * share * of_root;
        near[j] = share * root[j] * root[j];
        x[j] = grad;
        dot[j] = r * root[j] * free;
        message[j] = factor * sigma * root[j];
    }
    for (int j = count; j < t->width; j++) x[j] = dot[j] = message[j] = 0;
    if (b->norm_v) add_row(count, near, b->norm_v);
    if (b->by_query) {
        float scale = -.5f * degree_scale_of(t, i), *restrict by_query = b->by_query + first;
        SIMD for (int j = 0; j < count; j++) by_query[j] = scale * row[j] * root[j] * root[j];
        for (int j = count; j < t->width; j++) by_query[j] = 0;
    } else {
        add_row(count, row, b->degree);
    }
    b->grad_p += grad_p;
    b->beta[i] = beta_of(t, kappa);
    b->norm_q[i] = grad_norm_q * r * r;
    b->sum[i] = grad_sum;
    b->d[i] = kept ? r * r * (.5f * kappa * up - grad_sum + half * (.5f * along - norm_q * grad_norm_q)) : 0;
}

/* From the gradients of z and of the degrees, and of the context M V, to those of the scores of query i. In a causal
 * graph queries are visited from the last one on. `context` is the row of (gradient of the context) vT, or NULL. */
static inline void score_row(const Head *t, Back *b, int i, const float *restrict context) {
    const uint8_t *kept = kept_by(t, i);
    size_t first = (size_t)i * t->width;
    const float *restrict weight = t->score + first;
    float *restrict x = b->through + first, *restrict row = b->row;
    int seen = seen_by(t, i), count = eights(seen);
    float mean = 0, through_d = b->d[i], p_half = t->p_half, growth = (float)t->step->growth;
    if (has_edges(t, i)) {
        if (b->by_query) add_row(count, b->by_query + first, b->degree);
        SIMD for (int j = 0; j < count; j++) row[j] = b->degree[j] + through_d;
    } else {
        memset(row, 0, sizeof(float) * count);
    }
    if (context) add_row(count, context, row);
    if (kept)
        SIMD for (int j = 0; j < seen; j++) row[j] = kept[j] ? row[j] * growth : 0;
    SUM(mean) for (int j = 0; j < count; j++) mean += weight[j] * row[j];
    mean += p_half * b->sum[i];
    SIMD for (int j = 0; j < count; j++) x[j] = (row[j] - mean) * weight[j] + p_half * x[j];
}

/* The gradient of the query nodes' features but what comes through the scores,
 *
 *   beta g + (p - 2) (n x - (near/sqrt(e d)) v) G
 *
 * with the gradient (p/2 - 1) n of |x|2; room is (n, d). */
static void node_gradient(const Head *t, const Back *b, float *out, long ld, float *room) {
    int n = t->n, d = t->d;
    float two_half = 2 * (t->p_half - 1);
    product_nn(n, d, t->m, -two_half, t->dot, t->width, t->value, t->step->value.row, 0.f, room, d);
    for (int i = 0; i < n; i++) {
        const float *restrict g = b->grad_out + (size_t)i * d;
        const float *restrict node = t->node + i * t->step->node.row;
        float *restrict to = out + i * ld, *restrict through = room + (size_t)i * d;
        float beta = b->beta[i], own = two_half * b->norm_q[i];
        SIMD for (int c = 0; c < d; c++) {
            through[c] += own * node[c];
            to[c] = beta * g[c] + (t->metric ? 0 : through[c]);
        }
    }
    if (t->metric) product_nn(n, d, d, 1.f, room, d, t->metric, d, 1.f, out, ld);
}

/* The gradient of the values but what comes through the context; room is (m, d). */
static void value_gradient(const Head *t, const Back *b, float *out, long ld, float *room) {
    int n = t->n, m = t->m, d = t->d;
    long ldv = t->step->value.row;
    float half = t->p_half - 1, *through = t->metric ? room : out;
    long ldt = t->metric ? d : ld;
    product_tn(m, d, n, -2 * half, t->dot, t->width, t->node, t->step->node.row, 0.f, through, ldt);
    for (int j = 0; j < m; j++) {
        const float *restrict value = t->value + j * ldv;
        float *restrict to = through + j * ldt, own = 2 * half * b->norm_v[j];
        SIMD for (int c = 0; c < d; c++) to[c] += own * value[c];
    }
    if (t->metric) product_nn(m, d, d, 1.f, room, d, t->metric, d, 0.f, out, ld);
    product_tn(m, d, n, 1.f, b->message, t->width, b->grad_out, d, 1.f, out, ld);
}

/* Passes over all rows: from messages to z, distances and degrees, in order; then to the scores, backwards. */
static void backward_head(void *argument, int item) {
    Job *job = argument;
    const Backward *call = job->call;
    const Step *a = &call->step;
    size_t width = width_of(a->m), edges = (size_t)a->n * width, queries = eights((int)a->n);
    size_t nodes = (size_t)a->n * a->d, values = call->grad_value.at ? (size_t)a->m * a->d : 0;
    size_t rows = (a->causal ? 5 : 4) * edges + 4 * width;
    float *room = scratch(nodes_size(a) + rows + 4 * queries + 3 * nodes + values);
    if (!room) {
        job->failed = 1;
        return;
    }
    Head t = head_of(a, item, &room);
    int n = t.n, m = t.m, d = t.d;
    float *node_and_grad = take(&room, 2 * nodes), *grad_out = of_head(&a->out, a, item);
    for (int i = 0; i < n; i++) {
        memcpy(node_and_grad + (size_t)i * d, t.node_g + i * t.node_ld, sizeof(float) * d);
        memcpy(node_and_grad + nodes + (size_t)i * d, grad_out + i * a->out.row, sizeof(float) * d);
    }
    Back b = {node_and_grad + nodes, of_head(&a->context, a, item)};
    b.log_total = a->log_total + (size_t)item * n;
    b.log_sum = a->log_sum + (size_t)item * n;
    t.score = take(&room, edges);
    t.dot = take(&room, edges);
    b.message = take(&room, edges);
    b.through = take(&room, edges);
    b.by_query = a->causal ? take(&room, edges) : NULL;
    b.degree = take(&room, width);
    b.norm_v = call->grad_value.at ? take(&room, width) : NULL;
    b.row = take(&room, width);
    b.near = take(&room, width);
    b.beta = take(&room, queries);
    b.norm_q = take(&room, queries);
    b.sum = take(&room, queries);
    b.d = take(&room, queries);
    float *room_of_nodes = take(&room, nodes);
    known_norms(&t, a->norm_v + (size_t)item * m);
    scores(&t);
    value_products(&t, 2 * n, node_and_grad, d, t.dot); /* x G v, and g v into b.message, which comes after it */
    memset(b.degree, 0, sizeof(float) * width);
    if (b.norm_v) memset(b.norm_v, 0, sizeof(float) * width);
    if (a->causal) {
        first_degrees(&t);
    } else {
        memset(t.degree, 0, sizeof(float) * width);
        memcpy(t.degree, a->degree + (size_t)item * m, sizeof(float) * m);
        degrees_row(&t, (int)width, degree_scale_of(&t, 0));
    }
    for (int i = 0; i < n; i++) back_row(&t, &b, i);

    float *grad_query = of_head(&call->grad_query, a, item), *grad_node = of_head(&call->grad_node, a, item);
    float *grad_key = of_head(&call->grad_key, a, item), *grad_value = of_head(&call->grad_value, a, item);
    long ldq = call->grad_query.row;
    if (grad_node)
        node_gradient(&t, &b, grad_node, call->grad_node.row, room_of_nodes);
    else
        node_gradient(&t, &b, grad_query, ldq, room_of_nodes);
    if (grad_value) value_gradient(&t, &b, grad_value, call->grad_value.row, room);
    if (!a->causal) {
        float scale = -.5f * degree_scale_of(&t, 0);
        SIMD for (int j = 0; j < m; j++) b.degree[j] *= scale * t.root[j] * t.root[j];
    }
    float *context = b.grad_context ? t.dot : NULL, scale = (float)a->scale;
    long ldc = a->context.row, ldv = call->grad_value.row;
    if (context) value_products(&t, n, b.grad_context, ldc, context);
    for (int i = n - 1; i >= 0; i--) score_row(&t, &b, i, context ? context + i * width : NULL);
    float beta = grad_node ? 0.f : 1.f;
    product_nn(n, d, m, scale, b.through, width, t.key, a->key.row, beta, grad_query, ldq);
    if (grad_key)
        product_tn(m, d, n, scale, b.through, width, t.query, a->query.row, 0.f, grad_key, call->grad_key.row);
    if (grad_value && context) {
        for (int i = 0; a->kept && i < n; i++)
            drop_row(kept_by(&t, i), (float)a->growth, seen_by(&t, i), t.score + i * width);
        product_tn(m, d, n, 1.f, t.score, width, b.grad_context, ldc, 1.f, grad_value, ldv);
    }
    call->parts[2 * item] = .5 * LN_2 * b.grad_p;
    call->parts[2 * item + 1] = b.grad_residual;
}

/* Returns 0, or 1 if there is no memory. */
EXPORT int attngraph_step_backward(const Backward *call) {
    Job job = {call, 0};
    int items = (int)(call->step.b * call->step.h);
    for_each(backward_head, &job, items, (int)call->step.threads);
    double total[2] = {0, 0};
    for (int k = 0; k < 2 * items; k++) total[k % 2] += call->parts[k];
    call->grad_numbers[0] = (float)total[0];
    call->grad_numbers[1] = (float)total[1];
    return job.failed;
}
