/* The forward pass of step.h. */
#include "step.h"

/* Weights w that are known, and their logarithms s. */
static inline void known_row(int seen, int count, const float *restrict known, float *restrict s, float *restrict w) {
    SIMD for (int j = 0; j < seen; j++) {
        float x = known[j], logarithm = log2_of(x) + (x - x);
        w[j] = x;
        s[j] = x <= LEAST ? HIDDEN : logarithm;
    }
    for (int j = seen; j < count; j++) {
        w[j] = 0;
        s[j] = HIDDEN;
    }
}

/* The weights w of query i, which are added to the degrees; returns log sum_j 2^score, where a known
 * weight's score is its logarithm. */
static inline float weigh_row(const Head *t, int i, float *w) {
    const uint8_t *kept = kept_by(t, i);
    const float *known = t->step->known;
    float *s = t->score + (size_t)i * t->width, log_total = 0;
    int seen = seen_by(t, i), count = eights(seen);
    if (known) {
        known_row(seen, count, known + ((size_t)t->item * t->n + i) * t->m, s, w);
    } else {
        mask_row(t, i, seen, s);
        log_total = softmax_row(count, s, w);
    }
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

/* Passes over all rows: weights and degrees, then messages; in a causal graph, where a row's degrees are known with
 * it, both at once. */
static void forward_head(void *argument, int item) {
    Job *job = argument;
    const Step *a = job->call;
    size_t edges = (size_t)a->n * width_of(a->m), values = (size_t)(a->m > a->d ? a->m : a->d) * a->d;
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
    int first = (int)a->norms_known;
    long ld;
    if (first < m) {
        if (first && a->first_norms != a->norm_v) memcpy(norm_v, a->first_norms + (size_t)item * first, sizeof(float) * first);
        const float *rest = t.value + (size_t)first * a->value.row;
        if (t.metric && d % 16 == 0 && m - first >= 8)
            square_norms(m - first, d, rest, a->value.row, t.metric, room, norm_v + first);
        else
            with_metric(&t, m - first, rest, a->value.row, room, &ld, norm_v + first);
    }
    known_norms(&t, norm_v);
    t.score = take(&room, edges);
    t.dot = take(&room, edges);
    if (!a->known) scores(&t);
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
    if (a->degree) memcpy(a->degree + (size_t)item * m, t.degree, sizeof(float) * m);
    if (!a->causal) {
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
