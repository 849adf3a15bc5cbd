/* A step of decoding: one query of each head, whose weights are known, goes on from what a key/value cache keeps of
 * earlier queries, and what it leaves is kept in turn. The formulas are those of step.h. */
#include "step.h"

/* What Python hands over, all numbers of 8 bytes; the order of the fields is that of decoding.py. What was kept is of
 * k examples, which may be more or fewer than there are now, in another order. */
typedef struct {
    int64_t b, h, m, d, threads;
    double p, residual;
    Rows node, value;        /* of one row: x; v */
    const float *metric;     /* (h, d, d), or NULL for the identity */
    const float *weight;     /* (b, h, m): M, 0 where an edge is hidden */
    const int64_t *examples; /* (b): which of the k each one was; NULL: itself */
    const int64_t *queries;  /* (k), queries_next apart: how many there were before this one */
    int64_t queries_next, mean;
    const int64_t *seen; /* (b): how many values the query sees, for degree "mean"; NULL: all */
    Rows past;           /* (k, h, 1, past_known): degrees before the query; of further values they are 0 */
    int64_t past_known;
    Rows norms; /* (k, h, 1, norms_known): |v|2 of the first values, if v[place] is `probe` still */
    int64_t norms_known, place;
    const float *probe; /* (k, h, d) */
    /* results; the first four are kept */
    int64_t *new_queries;               /* (b) */
    float *degree, *norm_v, *new_probe; /* (b, h, m) twice, (b, h, d) */
    int64_t new_place;
    float *out; /* (b, h d) */
} Decode;

static int equal_rows(int64_t count, const float *x, const float *y) {
    int equal = 1;
    for (int64_t c = 0; c < count; c++) equal &= x[c] == y[c];
    return equal;
}

static void decode_head(void *argument, int item) {
    Job *job = argument;
    const Decode *a = job->call;
    int64_t example = item / a->h, head = item % a->h, m = a->m, d = a->d;
    int64_t was = a->examples ? a->examples[example] : example, queries = a->queries[was * a->queries_next] + 1;
    float *value = a->value.at + example * a->value.example + head * a->value.head;
    float *degree = a->degree + item * m, *norm_v = a->norm_v + item * m, p = (float)a->p, r = (float)a->residual;
    memcpy(degree, a->past.at + was * a->past.example + head * a->past.head, sizeof(float) * a->past_known);
    memset(degree + a->past_known, 0, sizeof(float) * (m - a->past_known));
    int64_t known = a->norms_known;
    if (known && !equal_rows(d, value + a->place * a->value.row, a->probe + (was * a->h + head) * d)) known = 0;
    if (known) memcpy(norm_v, a->norms.at + was * a->norms.example + head * a->norms.head, sizeof(float) * known);
    memcpy(a->new_probe + item * d, value + a->new_place * a->value.row, sizeof(float) * d);
    if (!head) a->new_queries[example] = queries;
    float logs[2], scale = (float)(a->seen ? a->seen[example] : m) / (float)queries;
    Step step = {.b = 1, .h = 1, .n = 1, .m = m, .d = d, .causal = 1, .growth = 1, .p = &p, .residual = &r};
    step.node.at = a->node.at + example * a->node.example + head * a->node.head;
    step.value = (Rows){value, 0, 0, a->value.row};
    step.metric = a->metric ? a->metric + head * d * d : NULL;
    step.known = a->weight + item * m;
    step.degree_scale = a->mean ? &scale : NULL;
    step.past = step.degree = degree;
    step.first_norms = step.norm_v = norm_v;
    step.norms_known = known;
    step.out = (Rows){a->out + item * d, 0, 0, d};
    step.log_total = logs;
    step.log_sum = logs + 1;
    job->failed |= attngraph_step(&step);
}

/* Returns 0, or 1 if there is no memory. */
EXPORT int attngraph_decode(const Decode *call) {
    Job job = {call, 0};
    for_each(decode_head, &job, (int)(call->b * call->h), (int)call->threads);
    return job.failed;
}
