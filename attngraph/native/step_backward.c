/* The backward pass of step.h. */
#include "step.h"

typedef struct {
    Step step; /* as after the forward pass, but out and context are the gradients that come from there */
    Rows grad_query, grad_key, grad_value, grad_node; /* results; at is NULL where one is not wanted, and
                                                         grad_node's where the node's feature is the query */
    float *grad_numbers;                              /* of p and of the residual */
    double *parts;                                    /* (b, h, 2): each head's part of them */
} Backward;

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
    float norm_q = t->norm_q[i] * r * r, up = 0, all = 0, log_growth = log2_of((float)a->growth);
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
    SUM(up, all) for (int j = 0; j < count; j++) {
        up += x[j] * message[j];
        all += x[j];
    }
    up = all == 0 ? 0 : up / (r * all); /* sigma's sum is 1 up to its logarithm's rounding, which gradients would see */

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
