/* What strips.c does with the edges of one query: rows of `count` numbers, one for each value that the query may see.
 * strips.c has the formulas. */
#ifndef ATTNGRAPH_STRIPS_ROWS_H
#define ATTNGRAPH_STRIPS_ROWS_H

#include "runtime.h"

#include <stdbool.h>

#define LOG_LEAST -63.f /* the logarithm of LEAST */
#define APART __attribute__((noinline)) /* else the compiler forgets that arrays do not overlap */

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

/* ---- backward pass ---------------------------------------------------------------------------------------------- */

/* A query's numbers in the backward pass, and what a row adds up. */
typedef struct {
    float half_p, log_total, log_power, offset, norm_q, scale;
    float grad_norm_q, grad_p, mean;
} Row;

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

#endif
