/* Sums over the edges of weighted bipartite graphs, for the statistics in analysis/: a head of an example (an item)
 * at a time, strip by strip of its queries, so that what is computed of every edge stays in the processor's cache.
 * analysis/sums.py calls it and says which sums these are; torch's operations compute the same elsewhere.
 *
 * Axes: n queries, m values, d features. Weights A (n, m), features q (n, d) and v (m, d), degrees d_i and e_j. All
 * arrays are whole, one item after another. A strip's sums are added up in order, whatever the number of threads. */
#include "runtime.h"

#define SHORTEST 1e-12f /* a shorter feature has no direction */

static inline float larger(float x, float y) { return x > y ? x : y; }

/* How many queries a strip has: one array of its edges takes 128 kB, where that is not too few for products. */
static inline int strip_of(int m) {
    int rows = (1 << 15) / (m > 0 ? m : 1);
    return rows < 16 ? 16 : rows > 64 ? 64 : rows;
}

static inline int least_of(int x, int y) { return x < y ? x : y; }

/* Take `count` numbers from a room. */
static float *take(float **room, size_t count) {
    float *taken = *room;
    *room += (count + 15) / 16 * 16;
    return taken;
}

/* ---- degrees, entropies, products with columns, and sums by class ------------------------------------------- */

#define LINE 32 /* sums by class are written for whole lines of so many nodes */

/* Sums by class, for several labellings of the nodes: of each query, the sum of its edges to the values of each class,
 * and of each value, the sum of its edges from the queries of each class. Both are without edges between i and i where
 * `loops` is 0. */
typedef struct {
    int labellings, columns, rows, loops; /* columns and rows: numbers of classes of the values and of the queries, over
                                             all labellings */
    const int32_t *queries, *values;      /* (items, labellings, n) and (items, labellings, m): the row and the column of
                                             each node's class; below 0: none */
    float *query_degree;                  /* (items, n) */
    float *at_queries, *at_values;        /* (items, columns, n) and (items, rows, m), n and m up to whole lines */
} Classes;

typedef struct {
    int n, m, columns;       /* columns: width of x */
    const float *weight, *x; /* x (m, columns) */
    float *query_degree, *value_degree, *query_log, *value_log; /* sums of A and of A log A */
    float *at_queries;                                          /* A x */
    Classes classes;
    int failed;
} Sums;

static void sum_rows(const Sums *job, size_t row, int count, const float *a, float *degree, float *log) {
    int m = job->m;
    for (int i = 0; i < count; i++, a += m) {
        float d = 0, l = 0;
        SUM(d, l) for (int j = 0; j < m; j++) {
            float x = a[j], z = x * log2_of(larger(x, FLT_MIN));
            d += x;
            l += z;
            degree[j] += x;
            log[j] += z;
        }
        job->query_degree[row + i] = d;
        job->query_log[row + i] = l * LN_2;
    }
}

static inline int whole_lines(int nodes) { return (nodes + LINE - 1) / LINE * LINE; }

static inline void add_line(const float *restrict from, float *restrict to) {
    SIMD for (int i = 0; i < LINE; i++) to[i] += from[i];
}

/* Line j has the edges of value j, from rows with the edges of LINE queries. Both have room for whole lines. */
static void turn(int m, const float *restrict rows, int wide, float *restrict lines) {
    for (int j = 0; j < m; j += 4)
        for (int i = 0; i < LINE; i += 4)
            for (int k = 0; k < 4; k++)
                for (int l = 0; l < 4; l++) lines[(size_t)(j + k) * LINE + i + l] = rows[(size_t)(i + l) * wide + j + k];
}

/* Add the edges of LINE queries or, at the end, fewer. `rows` and `lines` are room for LINE times m numbers, up to
 * whole lines; what is beyond m is 0. */
static void add_by_class(const Sums *job, int item, int first, float *rows, float *lines) {
    const Classes *classes = &job->classes;
    int n = job->n, m = job->m, labellings = classes->labellings, high = whole_lines(n), wide = whole_lines(m);
    int count = least_of(LINE, n - first);
    size_t query = (size_t)item * n + first;
    const int32_t *queries = classes->queries + (size_t)item * n * labellings + first;
    const int32_t *values = classes->values + (size_t)item * m * labellings;
    float *at_queries = classes->at_queries + (size_t)item * high * classes->columns + first;
    float *at_values = classes->at_values + (size_t)item * wide * classes->rows;
    if (count < LINE) memset(rows, 0, sizeof(float) * LINE * wide);
    for (int i = 0; i < count; i++) {
        float *row = rows + (size_t)i * wide, degree = 0;
        memcpy(row, job->weight + (query + i) * m, sizeof(float) * m);
        if (!classes->loops && first + i < m) row[first + i] = 0;
        SUM(degree) for (int j = 0; j < m; j++) degree += row[j];
        classes->query_degree[query + i] = degree;
    }
    turn(m, rows, wide, lines);
    for (int j = 0; j < m; j++)
        for (int k = 0; k < labellings; k++) {
            int class = values[(size_t)k * m + j];
            if (class >= 0) add_line(lines + (size_t)j * LINE, at_queries + (size_t)class * high);
        }
    for (int some = 0; some < wide; some += 4 * LINE) /* of so many values, the sums of all classes stay in the cache */
        for (int i = 0; i < count; i++)
            for (int k = 0; k < labellings; k++) {
                int class = queries[(size_t)k * n + i], last = least_of(some + 4 * LINE, wide);
                for (int j = class < 0 ? last : some; j < last; j += LINE)
                    add_line(rows + (size_t)i * wide + j, at_values + (size_t)class * wide + j);
            }
}

static void sum_item(void *argument, int item) {
    Sums *job = argument;
    int n = job->n, m = job->m, strip = m > 1024 ? LINE : 2 * LINE, wide = job->classes.labellings ? whole_lines(m) : 0;
    size_t values = (size_t)item * m, queries = (size_t)item * n;
    float *room = scratch(6 * (size_t)(m + 16) + 2 * (size_t)LINE * wide);
    if (!room) {
        job->failed = 1;
        return;
    }
    double *degrees = (double *)take(&room, 2 * m), *logs = (double *)take(&room, 2 * m);
    float *degree = take(&room, m), *log = take(&room, m), *rows = room, *lines = rows + (size_t)LINE * wide;
    memset(degrees, 0, sizeof(double) * m);
    memset(logs, 0, sizeof(double) * m);
    memset(rows, 0, sizeof(float) * LINE * wide);
    for (int i = 0; i < n; i += strip) {
        int count = least_of(strip, n - i);
        const float *a = job->weight + (queries + i) * m;
        memset(degree, 0, sizeof(float) * m);
        memset(log, 0, sizeof(float) * m);
        sum_rows(job, queries + i, count, a, degree, log);
        for (int j = 0; j < m; j++) {
            degrees[j] += degree[j];
            logs[j] += log[j];
        }
        if (job->columns)
            product_nn(count, job->columns, m, 1.f, a, m, job->x + values * job->columns, job->columns, 0.f,
                       job->at_queries + (queries + i) * job->columns, job->columns);
        for (int first = i; wide && first < i + count; first += LINE) add_by_class(job, item, first, rows, lines);
    }
    for (int j = 0; j < m; j++) {
        job->value_degree[values + j] = (float)degrees[j];
        job->value_log[values + j] = (float)(logs[j] * LN_2);
    }
}

/* The classes' `at_queries` and `at_values` come as zeros; returns 0, or 1 if there is no memory. */
EXPORT int attngraph_edge_sums(int items, int n, int m, int columns, int labellings, int class_columns, int class_rows,
                               int loops, const float *weight, const float *x, const int32_t *queries,
                               const int32_t *values, float *query_degree, float *value_degree, float *query_log,
                               float *value_log, float *at_queries, float *degree_by_class, float *queries_by_class,
                               float *values_by_class, int threads) {
    Classes classes = {labellings, class_columns,   class_rows,       loops,          queries,
                       values,     degree_by_class, queries_by_class, values_by_class};
    Sums job = {n, m, columns, weight, x, query_degree, value_degree, query_log, value_log, at_queries, classes, 0};
    for_each(sum_item, &job, items, threads);
    return job.failed;
}

/* ---- energies, and pGNN's closed form ----------------------------------------------------------------------- */

/* Sums along edges that need the products q.v, which are computed once. Energies, of the graph, of uniform attention
 * with the same degrees of queries, and of permuted graphs, with
 *
 *   R2 = |q|2/d + |v|2/e - 2 q.v / sqrt(d e):   sum A cos(q, v),   sum A R2,   sum (A R2)^(p/2) .
 *
 * In a permuted graph node i has the features of node order[i], so the features of node j meet the edges of node
 * back[j], where back is the inverse of order.
 *
 * For the closed form, in logarithms to base 2 and up to a factor of the query, the weights of pGNN's messages over A,
 * the same without the product q.v, and the closed form:
 *
 *   x = (p/2 - 1) log (A R2)              - 1/2 log e,   R2 at least SHARE of the lengths, and LEAST
 *   z = (p/2 - 1) log (A (|q|2/d + |v|2/e)) - 1/2 log e
 *   y = (p/2 - 1) log (A |v|2/e)            - 1/2 log e
 *
 * and of these, less their means over the edges of a query, the sums x y, x x and y y; then of each query's
 * weights A 2^x, A 2^y, A 2^z and A, each over its sum, the distances sum |A 2^x - .| to the others. */
enum { XY, XX, YY, TO_FORM, TO_LENGTHS, TO_WEIGHT, QUERIES, FOUND };

typedef struct {
    int heads, n, m, d;
    float p_half;
    const float *weight, *query, *value;
    int nulls, paired; /* number of permuted graphs; paired: 1 if queries move as values do */
    const float *query_degree, *value_degree; /* (graphs, n) and (graphs, m): of the graph, of permuted graphs, where
                                                 they meet the features, and of uniform attention if there is `even` */
    const float *even;            /* the weight of each query's edges in uniform attention (n), or NULL */
    const uint8_t *visible;       /* (b, n, m): where uniform attention has edges; NULL: everywhere */
    const int32_t *back;          /* (b, nulls, m), or NULL */
    int by_query;                 /* 1 if root_e is (n, m), else it is (m) */
    const float *root_d, *root_e; /* 1/sqrt(d) and 1/sqrt(e) for the closed form, or NULL */
    double *energies;             /* (items, graphs, 3) */
    double *form;                 /* (items, FOUND): the sums, and the number of queries with edges */
    int failed;
} Along;

static inline float root_of(float degree) { return degree <= LEAST ? 0.f : 1 / sqrtf(degree); }

static inline float square_of(int d, const float *restrict x) {
    float total = 0;
    SUM(total) for (int c = 0; c < d; c++) total += x[c] * x[c];
    return total;
}

/* The sums of one row. */
typedef struct {
    float cosine, square, power;
} Row;

/* x^(p/2); of what is no normal number, 0. For p = 1.5 from two roots, which take a quarter of the time. */
static inline float power_of(int by_roots, float p_half, float x) {
    float root = sqrtf(larger(x, 0));
    return by_roots ? root * sqrtf(root) : where(x > FLT_MIN, exp2_of(p_half * log2_of(larger(x, FLT_MIN))));
}

/* Of all values: 1/|v|, and with their degrees in a graph 1/sqrt(e) and |v|2/e. */
typedef struct {
    float *inverse, *roots, *lengths;
} Scaled;

/* Edges of query i with weights a; of weight 1 where a is NULL, if they are visible, or all where that is NULL too.
 * `norm` is |q|2/d and `two_root` 2/sqrt(d). */
static inline __attribute__((always_inline)) Row sum_row(int by_roots, int m, float p_half, float norm, float two_root,
                                                         const float *restrict a, const uint8_t *restrict visible,
                                                         const float *restrict dot, Scaled values) {
    const float *restrict inverse = values.inverse, *restrict roots = values.roots, *restrict lengths = values.lengths;
    float cosine = 0, square = 0, power = 0;
    SUM(cosine, square, power) for (int j = 0; j < m; j++) {
        float weight = a ? a[j] : visible ? visible[j] : 1.f;
        float x = weight * (lengths[j] + norm - two_root * roots[j] * dot[j]);
        cosine += weight * dot[j] * inverse[j];
        square += larger(x, 0);
        power += power_of(by_roots, p_half, x);
    }
    return (Row){cosine, square, power};
}

/* A loop of its own for each kind of row, without conditions in it. */
static Row row_energy(int m, float p_half, float norm, float two_root, const float *a, const uint8_t *visible,
                      const float *dot, Scaled values) {
#define ROW(by_roots, a, visible) sum_row(by_roots, m, p_half, norm, two_root, a, visible, dot, values)
    if (p_half == .75f) return a ? ROW(1, a, NULL) : visible ? ROW(1, NULL, visible) : ROW(1, NULL, NULL);
    return a ? ROW(0, a, NULL) : visible ? ROW(0, NULL, visible) : ROW(0, NULL, NULL);
#undef ROW
}

/* Add the sums of a query with this squared length and degree, whose edges all count `each` times. A cosine that is
 * infinite or NaN makes all three NaN, which comparisons in the loop have hidden. */
static void add_energy(double *out, int m, float p_half, float square, float degree, float each, const float *a,
                       const uint8_t *visible, const float *dot, Scaled values) {
    float root = root_of(degree), inverse = 1 / larger(sqrtf(square), SHORTEST);
    Row row = row_energy(m, p_half, square * root * root, 2 * root, a, visible, dot, values);
    float bad = row.cosine - row.cosine;
    out[0] += (double)row.cosine * inverse * each;
    out[1] += (double)row.square * each + bad;
    out[2] += (double)row.power * (each == 1 ? 1 : pow(each, p_half)) + bad;
}

/* Of each value, as a query sees it: |v|2/e, -1/2 log e, (p/2 - 1) log |v|2/e, and 2 to its power. */
typedef struct {
    float *length, *log_e, *own, *power;
} Values;

/* Room for m numbers each: x, y and the weights of the messages, the closed form and without the product. */
typedef struct {
    float *x, *y, *message, *form, *lengths;
} Terms;

static void value_terms(int m, float exponent, const float *restrict square, const float *restrict root, Values v) {
    float *restrict length = v.length, *restrict log_e = v.log_e, *restrict own = v.own, *restrict power = v.power;
    SIMD for (int j = 0; j < m; j++) {
        float x = square[j] * root[j] * root[j], log = exponent * log2_of(larger(x, LEAST));
        length[j] = x;
        log_e[j] = log2_of(larger(root[j], LEAST));
        own[j] = log;
        power[j] = exp2_of(log);
    }
}

/* 2^x over the largest; x is HIDDEN where there is no edge. */
static void powers_of_row(int m, float *restrict x) {
    float top = HIDDEN;
    MAX(top) for (int j = 0; j < m; j++) top = larger(x[j], top);
    SIMD for (int j = 0; j < m; j++) x[j] = exp2_of(x[j] - top);
}

/* One query's part of the sums. For p = 1.5 the weights come from roots, which take half the time of logarithms and
 * powers. */
static inline __attribute__((always_inline)) void form_row(int by_roots, int m, float exponent, float norm,
                                                           float two_root, const float *restrict a,
                                                           const float *restrict dot, const float *restrict roots,
                                                           Values v, Terms t, double *out) {
    const float *restrict length = v.length, *restrict log_e = v.log_e, *restrict own = v.own;
    const float *restrict own_power = v.power;
    float *restrict x = t.x, *restrict y = t.y, *restrict message = t.message, *restrict form = t.form;
    float *restrict lengths = t.lengths;
    float edges = 0, mean_x = 0, mean_y = 0, degree = 0, products = 0;
    SUM(edges, mean_x, mean_y, degree, products) for (int j = 0; j < m; j++) {
        int counts = a[j] > LEAST;
        float weight = larger(a[j], LEAST), log = log2_of(weight), sum = norm + length[j];
        float square = larger(sum - two_root * roots[j] * dot[j], SHARE * sum + LEAST);
        float of_x = exponent * (log + log2_of(square)) + log_e[j], of_y = exponent * log + own[j] + log_e[j];
        sum = larger(sum, LEAST);
        if (by_roots) { /* A^(3/4) / sqrt(e), times R2, |v|2/e or the lengths to the power of -1/4 */
            float root = sqrtf(weight), fourth = sqrtf(sqrtf(square)), of_sum = sqrtf(sqrtf(sum));
            float shared = where(counts, root * sqrtf(root) * roots[j]), share = shared / (fourth * of_sum);
            message[j] = share * of_sum;
            form[j] = shared * own_power[j];
            lengths[j] = share * fourth;
        } else {
            message[j] = counts ? of_x + log : HIDDEN;
            form[j] = counts ? of_y + log : HIDDEN;
            lengths[j] = counts ? exponent * (log + log2_of(sum)) + log_e[j] + log : HIDDEN;
        }
        x[j] = of_x;
        y[j] = of_y;
        edges += where(counts, 1);
        mean_x += where(counts, of_x);
        mean_y += where(counts, of_y);
        degree += a[j];
        products += dot[j];
    }
    if (edges == 0) return;
    float bad = products - products; /* NaN of features, which comparisons have hidden */
    mean_x = mean_x / edges + bad;
    mean_y = mean_y / edges;
    if (!by_roots) {
        powers_of_row(m, message);
        powers_of_row(m, form);
        powers_of_row(m, lengths);
    }
    float xy = 0, xx = 0, yy = 0, of_message = 0, of_form = 0, of_lengths = 0;
    SUM(xy, xx, yy, of_message, of_form, of_lengths) for (int j = 0; j < m; j++) {
        int counts = a[j] > LEAST;
        float of_x = where(counts, x[j] - mean_x), of_y = where(counts, y[j] - mean_y);
        xy += of_x * of_y;
        xx += of_x * of_x;
        yy += of_y * of_y;
        of_message += message[j];
        of_form += form[j];
        of_lengths += lengths[j];
    }
    of_message = 1 / of_message + bad;
    of_form = 1 / of_form;
    of_lengths = 1 / of_lengths;
    degree = 1 / degree;
    float to_form = 0, to_lengths = 0, to_weight = 0;
    SUM(to_form, to_lengths, to_weight) for (int j = 0; j < m; j++) {
        float share = message[j] * of_message;
        to_form += fabsf(share - form[j] * of_form);
        to_lengths += fabsf(share - lengths[j] * of_lengths);
        to_weight += fabsf(share - a[j] * degree);
    }
    out[XY] += xy;
    out[XX] += xx;
    out[YY] += yy;
    out[TO_FORM] += to_form;
    out[TO_LENGTHS] += to_lengths;
    out[TO_WEIGHT] += to_weight;
    out[QUERIES] += 1;
}

static int graphs_of(const Along *job) { return 1 + job->nulls + (job->even != NULL); }

/* The values' numbers in a graph, in a room for those of all graphs. */
static Scaled scaled_in(float *room, int m, int graph, float *inverse) {
    size_t wide = (m + 15) / 16 * 16;
    float *first = room + 2 * graph * wide;
    return (Scaled){inverse, first, first + wide};
}

/* The row's numbers in another order. Rows come in no order themselves, so the next one is fetched meanwhile. */
static void move_row(int m, const float *restrict row, const float *next, const int32_t *restrict from,
                     float *restrict to) {
    for (int j = 0; j < m; j += 16) __builtin_prefetch(next + j);
    _Pragma("GCC unroll 8") for (int j = 0; j < m; j++) to[j] = row[from[j]];
}

/* Some queries of an item, and the products of their features with those of the values. */
typedef struct {
    int item, first, count;
    const float *square, *dot;
} Strip;

/* Of the graph (0), a permuted graph, or uniform attention, which is the last. */
static void energies_of_strip(const Along *job, Strip strip, int graph, Scaled values, float *moved) {
    int n = job->n, m = job->m, permuted = graph > 0 && graph <= job->nulls, even = graph > job->nulls;
    size_t queries = (size_t)strip.item * n, example = strip.item / job->heads;
    size_t place = (size_t)strip.item * graphs_of(job) + graph;
    const float *weights = job->weight + queries * m, *degree = job->query_degree + place * n;
    double *out = job->energies + 3 * place;
    const int32_t *back = permuted ? job->back + (example * job->nulls + graph - 1) * m : NULL;
    for (int k = 0; k < strip.count; k++) {
        int i = strip.first + k;
        const float *a = weights + (size_t)i * m, *dot = strip.dot + (size_t)k * m;
        const uint8_t *visible = NULL;
        float each = 1;
        if (permuted) {
            int row = job->paired ? back[i] : i, next = job->paired ? back[least_of(i + 1, n - 1)] : i;
            move_row(m, weights + (size_t)row * m, weights + (size_t)next * m, back, moved);
            a = moved;
        } else if (even) {
            a = NULL;
            visible = job->visible ? job->visible + (example * n + i) * m : NULL;
            each = job->even[queries + i];
        }
        add_energy(out, m, job->p_half, strip.square[k], degree[i], each, a, visible, dot, values);
    }
}

static void form_of_strip(const Along *job, Strip strip, const float *square, Values values, Terms terms) {
    int m = job->m, by_roots = job->p_half == .75f;
    size_t queries = (size_t)strip.item * job->n;
    float exponent = job->p_half - 1;
    double *out = job->form + FOUND * (size_t)strip.item;
    for (int k = 0; k < strip.count; k++) {
        size_t row = queries + strip.first + k;
        const float *weight = job->weight + row * m, *dot = strip.dot + (size_t)k * m;
        const float *roots = job->root_e + (job->by_query ? row : (size_t)strip.item) * m;
        float root = job->root_d[row], norm = strip.square[k] * root * root;
        if (job->by_query || row == queries) value_terms(m, exponent, square, roots, values);
        if (by_roots)
            form_row(1, m, exponent, norm, 2 * root, weight, dot, roots, values, terms, out);
        else
            form_row(0, m, exponent, norm, 2 * root, weight, dot, roots, values, terms, out);
    }
}

static void along_item(void *argument, int item) {
    Along *job = argument;
    int n = job->n, m = job->m, d = job->d, graphs = graphs_of(job), size = strip_of(m);
    const float *query = job->query + (size_t)item * n * d, *value = job->value + (size_t)item * m * d;
    float *room = scratch((size_t)size * m + 80 + (12 + 2 * (size_t)graphs) * (m + 16));
    if (!room) {
        job->failed = 1;
        return;
    }
    float *dot = take(&room, (size_t)size * m), *squares = take(&room, size), *square = take(&room, m);
    float *inverse = take(&room, m), *moved = take(&room, m);
    Values values = {take(&room, m), take(&room, m), take(&room, m), take(&room, m)};
    Terms terms = {take(&room, m), take(&room, m), take(&room, m), take(&room, m), take(&room, m)};
    for (int j = 0; j < m; j++) {
        square[j] = square_of(d, value + (size_t)j * d);
        inverse[j] = 1 / larger(sqrtf(square[j]), SHORTEST);
    }
    for (int k = 0; k < graphs; k++) {
        const float *degree = job->value_degree + ((size_t)item * graphs + k) * m;
        Scaled scaled = scaled_in(room, m, k, inverse);
        for (int j = 0; j < m; j++) {
            scaled.roots[j] = root_of(degree[j]);
            scaled.lengths[j] = square[j] * scaled.roots[j] * scaled.roots[j];
        }
    }
    for (int first = 0; first < n; first += size) {
        Strip strip = {item, first, least_of(size, n - first), squares, dot};
        const float *queries = query + (size_t)first * d;
        product_nt(strip.count, m, d, 1.f, queries, d, value, d, 0.f, dot, m);
        for (int k = 0; k < strip.count; k++) squares[k] = square_of(d, queries + (size_t)k * d);
        for (int k = 0; k < graphs; k++) energies_of_strip(job, strip, k, scaled_in(room, m, k, inverse), moved);
        if (job->root_d) form_of_strip(job, strip, square, values, terms);
    }
}

/* `energies` and `form` come as zeros; returns 0, or 1 if there is no memory. */
EXPORT int attngraph_along_edges(int items, int heads, int n, int m, int d, int nulls, int paired, int by_query,
                                 float p, const float *weight, const float *query, const float *value,
                                 const float *query_degree, const float *value_degree, const float *even,
                                 const uint8_t *visible, const int32_t *back, const float *root_d,
                                 const float *root_e, double *energies, double *form, int threads) {
    Along job = {heads, n, m, d, .5f * p, weight, query, value, nulls, paired, query_degree, value_degree, even,
                 visible, back, by_query, root_d, root_e, energies, form, 0};
    for_each(along_item, &job, items, threads);
    return job.failed;
}

/* ---- alignment of paired features --------------------------------------------------------------------------- */

/* Of x (n, d) and y (n, d_y), each less its mean over the valid rows, with the squared lengths k and g of these rows:
 * |xT x|2, |yT y|2, |xT y|2, sums of k k, g g, k g, k and g; and the sum of y's squared lengths as it came. Where all
 * rows of y are the same up to rounding, those that need x are left 0. */
enum { X_X, Y_Y, X_Y, K_K, G_G, K_G, K, G, TOTAL, MOMENTS };
#define ALIKE 1e-9 /* a share of TOTAL: rows of y with less are the same */

typedef struct {
    int heads, n, d, d_y, graphs;
    const float *x;       /* (items, n, d) */
    const float *y;       /* (items, n, graphs, d_y) */
    const float *degree;  /* (items, n): what rows of y are divided by, or NULL */
    const uint8_t *valid; /* (items, n): which rows of y count */
    const int32_t *back;  /* (b, graphs - 1, n): which row of y belongs to each of x, after the first graph; or NULL */
    double *out;          /* (items, graphs, MOMENTS) */
    int failed;
} Alignment;

/* Rows less their mean, where `counts` is true: x's rows at from[i] (i if that is NULL), which are `step` numbers from
 * each other, over their degrees. They are written to `out`, whose rows are `wide` numbers from each other; others 0.
 * Returns the sum of squares before; `sums` is room for d numbers. */
static double centre(int n, int d, const float *x, long step, const int32_t *from, const float *degree,
                     const uint8_t *counts, double *restrict sums, float *out, long wide, float *restrict squares) {
    double total = 0;
    int count = 0;
    memset(sums, 0, sizeof(double) * d);
    for (int i = 0; i < n; i++) {
        int row = from ? from[i] : i;
        const float *restrict in = x + row * step;
        float *restrict to = out + i * wide, each = degree ? 1 / degree[row] : 1;
        if (!counts[i]) continue;
        SIMD for (int c = 0; c < d; c++) {
            to[c] = in[c] * each;
            sums[c] += to[c];
        }
        total += square_of(d, to);
        count++;
    }
    for (int c = 0; c < d; c++) sums[c] /= count ? count : 1;
    for (int i = 0; i < n; i++) {
        float *restrict to = out + i * wide;
        if (counts[i])
            SIMD for (int c = 0; c < d; c++) to[c] -= (float)sums[c];
        else
            memset(to, 0, sizeof(float) * d);
        squares[i] = square_of(d, to);
    }
    return total;
}

static double square_of_rows(int rows, int columns, const float *x) {
    double total = 0;
    for (int i = 0; i < rows; i++) total += square_of(columns, x + (size_t)i * columns);
    return total;
}

static double sum_of(int n, const float *x, const float *y) {
    double total = 0;
    for (int i = 0; i < n; i++) total += (double)x[i] * (y ? y[i] : 1);
    return total;
}

static void align_item(void *argument, int item) {
    Alignment *job = argument;
    int n = job->n, d = job->d, d_y = job->d_y, graphs = job->graphs, wide = d + d_y, most = d > d_y ? d : d_y;
    float *room = scratch((size_t)wide * n + 3 * (size_t)(n + 16) + (size_t)(wide + 2) * (most + 16) + 64);
    if (!room) {
        job->failed = 1;
        return;
    }
    double *sums = (double *)take(&room, 2 * (size_t)most);
    float *k = take(&room, n), *g = take(&room, n), *products = take(&room, (size_t)wide * most);
    uint8_t *counts = (uint8_t *)take(&room, n);
    float *x = take(&room, (size_t)wide * n), *y = x + d; /* rows of both, side by side */
    size_t nodes = (size_t)item * n, example = item / job->heads, step = (size_t)graphs * d_y;
    int shared = 1, known = 0; /* whether the same rows of x count in all graphs, and are centred already */
    for (int i = 0; job->back && i < n; i++) shared &= job->valid[nodes + i];
    double of_x = 0;
    for (int graph = 0; graph < graphs; graph++) {
        const int32_t *back = graph && job->back ? job->back + (example * (graphs - 1) + graph - 1) * n : NULL;
        const float *degree = job->degree ? job->degree + nodes : NULL;
        double *out = job->out + MOMENTS * ((size_t)item * graphs + graph);
        for (int i = 0; i < n; i++) counts[i] = job->valid[nodes + (back ? back[i] : i)];
        out[TOTAL] = centre(n, d_y, job->y + nodes * step + (size_t)graph * d_y, step, back, degree, counts, sums, y,
                            wide, g);
        out[G] = sum_of(n, g, NULL);
        if (out[G] <= ALIKE * out[TOTAL]) continue;
        if (!known) {
            centre(n, d, job->x + nodes * d, d, NULL, NULL, counts, sums, x, wide, k);
            product_tn(d, d, n, 1.f, x, wide, x, wide, 0.f, products, d);
            of_x = square_of_rows(d, d, products);
            known = shared;
        }
        product_tn(wide, d_y, n, 1.f, x, wide, y, wide, 0.f, products, d_y);
        out[X_X] = of_x;
        out[X_Y] = square_of_rows(d, d_y, products);
        out[Y_Y] = square_of_rows(d_y, d_y, products + (size_t)d * d_y);
        out[K_K] = sum_of(n, k, k);
        out[G_G] = sum_of(n, g, g);
        out[K_G] = sum_of(n, k, g);
        out[K] = sum_of(n, k, NULL);
    }
}

/* `out` comes as zeros; returns 0, or 1 if there is no memory. */
EXPORT int attngraph_alignment(int items, int heads, int n, int d, int d_y, int graphs, const float *x, const float *y,
                               const float *degree, const uint8_t *valid, const int32_t *back, double *out,
                               int threads) {
    Alignment job = {heads, n, d, d_y, graphs, x, y, degree, valid, back, out, 0};
    for_each(align_item, &job, items, threads);
    return job.failed;
}
