/* One sweep over the edges of an attention layer, strip by strip of queries: the heaviest edges of each query,
 * the degrees of the values, the entropy of each query's weights, and sums of the weights times given columns.
 * A strip of scores is all that is ever held of M. See attngraph/streaming.py. */
#include "runtime.h"

#include <float.h>

#define TILE 1024      /* columns that are computed together: with a strip's rows they stay in the cache */
#define BLOCK 32       /* scores whose maximum says whether they can be among the heaviest */
#define SMALLEST -63.f /* 2 to this power times the largest weight of a row counts as 0 */

/* Sizes, what is read and what is written; the ctypes structure in streaming.py has the same fields. An item is
 * an example and a head. Distances are in numbers; a mask's are 0 where queries or examples share it. */
typedef struct {
    int32_t items, heads, n, m, d; /* queries, values, features */
    int32_t top;                   /* how many edges of each query are kept */
    int32_t triangular;            /* query i sees values up to i + m - n only */
    int32_t parts;                 /* into how many parts an item's queries are cut */
    int32_t strip;                 /* queries of a strip */
    int32_t without_loops;         /* query i's edge to value i is no edge */
    int32_t columns, rows;         /* widths of x and y */
    float scale;
    int64_t query_example, query_head, query_row, key_example, key_head, key_row, mask_example, mask_row;
    const float *query, *key;
    const uint8_t *mask;  /* (b, n, m) or NULL: which values each query sees */
    const uint8_t *valid; /* (b, n) or NULL: which queries have edges */
    const float *x, *y;   /* (items, m, columns), (items, n, rows) or NULL */
    float *weight;        /* (items, n, top): the heaviest edges, then 0 where there are fewer */
    int32_t *value;       /* (items, n, top): their values, in order */
    float *degree;        /* (items, n): 1, or 0 for a query that sees nothing; less a loop that is left out */
    float *entropy;       /* (items, n), in nats */
    float *loops;         /* (items, n) or NULL: the weight of query i's edge to value i */
    double *value_degree; /* (items, parts, m) */
    double *value_log;    /* (items, parts, m) or NULL: sums of M log2 M */
    float *at_queries;    /* (items, n, columns) or NULL: M x */
    float *at_values;     /* (items, parts, m, rows) or NULL: transposed M y */
    int32_t failed;       /* 1 if there was no memory */
} Capture;

/* An edge of a query: its weight and value. */
typedef struct {
    float weight;
    int32_t value;
} Edge;

/* Whether an edge comes first: the heavier one, and of equal ones that of the first value. */
static inline int before(Edge a, Edge b) { return a.weight > b.weight || (a.weight == b.weight && a.value < b.value); }

/* Bring the first `top` of `size` edges to the front, in no order (Hoare's selection). */
static void select_edges(Edge *edges, int size, int top) {
    int low = 0, high = size - 1;
    while (low < high) {
        Edge a = edges[low], b = edges[low + (high - low) / 2], c = edges[high];
        Edge pivot = before(a, b) ? (before(b, c) ? b : before(a, c) ? c : a) : before(a, c) ? a : before(b, c) ? c : b;
        int i = low, j = high;
        while (i <= j) {
            while (before(edges[i], pivot)) i++;
            while (before(pivot, edges[j])) j--;
            if (i <= j) {
                Edge edge = edges[i];
                edges[i++] = edges[j];
                edges[j--] = edge;
            }
        }
        if (top <= j + 1)
            high = j;
        else if (top > i)
            low = i;
        else
            return;
    }
}

/* What is known of the part of a row that lies in a tile: the scores there have become 2^(score - peak), `total`
 * is their sum, and `moment` that of each times its exponent. */
typedef struct {
    float peak, total, moment;
} Piece;

/* Part of a row of scores, in units of log 2, and the maxima of its blocks. Scores so far below the others that
 * their weights count as 0 (attngraph.edges.smallest_weight) become 0: no arithmetic meets denormal numbers. */
static Piece take_piece(float *s, int width, float *maxima) {
    Piece piece = {HIDDEN, 0.f, 0.f};
    for (int first = 0; first < width; first += BLOCK) {
        int end = first + BLOCK < width ? first + BLOCK : width;
        float peak = HIDDEN;
#pragma omp simd reduction(max : peak)
        for (int j = first; j < end; j++) peak = s[j] > peak ? s[j] : peak;
        maxima[first / BLOCK] = peak;
        piece.peak = peak > piece.peak ? peak : piece.peak;
    }
    if (piece.peak <= HIDDEN / 2) { /* it sees nothing here, or all its scores are NaN, which stays NaN */
        for (int j = 0; j < width; j++) piece.total += 0.f * s[j];
        memset(s, 0, width * sizeof(float));
        return piece;
    }
    float total = 0.f, moment = 0.f;
#pragma omp simd reduction(+ : total, moment)
    for (int j = 0; j < width; j++) {
        float x = s[j] - piece.peak, z = where(!(x < SMALLEST), exp2_of(x));
        s[j] = z;
        total += z;
        moment += where(!(x < SMALLEST), x) * z;
    }
    piece.total = total;
    piece.moment = moment;
    return piece;
}

/* The pieces of a row put together: each one's `peak` becomes the factor of its weights. Returns the largest
 * score, and HIDDEN for a query that sees nothing. */
static float join_pieces(Capture *job, size_t row, Piece *pieces, int count) {
    float peak = HIDDEN, total = 0.f, moment = 0.f;
    for (int t = 0; t < count; t++) peak = pieces[t].peak > peak ? pieces[t].peak : peak;
    for (int t = 0; t < count; t++) {
        float below = pieces[t].peak - peak, factor = where(!(below < SMALLEST), exp2_of(below));
        total += pieces[t].total * factor;
        moment += factor * (pieces[t].moment + where(!(below < SMALLEST), below) * pieces[t].total);
        pieces[t].peak = factor;
    }
    int sees = peak > HIDDEN / 2;
    float share = sees ? 1.f / total : 0.f;
    for (int t = 0; t < count; t++) pieces[t].peak *= share;
    job->degree[row] = sees ? 1.f + 0.f * total : total;
    job->entropy[row] = sees ? (log2_of(total) - moment * share) * LN_2 : 0.f;
    return sees ? peak + log2_of(total) : HIDDEN;
}

/* The `top` heaviest edges of a row. Those of as many blocks are at least the smallest of these blocks' maxima, so
 * that nothing below it need be looked at. One more block counts where the loop, which may be its block's maximum,
 * was left out. `normaliser` is what the row's scores are to be lowered by. */
static void keep_heaviest(Capture *job, size_t row, const float *s, const Piece *pieces, const float *maxima,
                          int width, float normaliser, Edge *edges) {
    int top = job->top, blocks = (width + BLOCK - 1) / BLOCK, size = 0, counted = top + (job->without_loops != 0);
    float least = HIDDEN, least_weight = 0.f;
    if (blocks > counted) {
        for (int b = 0; b < blocks; b++) edges[b] = (Edge){maxima[b], b};
        select_edges(edges, blocks, counted);
        least = edges[0].weight;
        for (int k = 1; k < counted; k++) least = edges[k].weight < least ? edges[k].weight : least;
        least_weight = exp2_of(least - normaliser) * (1.f - 1e-4f); /* less its rounding */
    }
    for (int b = 0; b < blocks && normaliser > HIDDEN; b++) {
        if (maxima[b] < least) continue;
        int end = (b + 1) * BLOCK < width ? (b + 1) * BLOCK : width;
        float share = pieces[b * BLOCK / TILE].peak;
        for (int j = b * BLOCK; j < end; j++) {
            float weight = s[j] * share;
            if (weight >= least_weight && weight > 0.f) edges[size++] = (Edge){weight, j};
        }
    }
    if (size > top) {
        select_edges(edges, size, top);
        size = top;
    }
    for (int k = 1; k < size; k++) { /* in the order of their values */
        Edge edge = edges[k];
        int place = k;
        for (; place && edges[place - 1].value > edge.value; place--) edges[place] = edges[place - 1];
        edges[place] = edge;
    }
    for (int k = 0; k < top; k++) {
        job->weight[row * top + k] = k < size ? edges[k].weight : 0.f;
        job->value[row * top + k] = k < size ? edges[k].value : 0;
    }
}

/* Take a row's edge to its own value out, and sum up the others anew: degree and entropy less its share would be
 * nothing but rounding where it has nearly all the weight. */
static void leave_loop_out(Capture *job, size_t row, float *s, const Piece *pieces, int own, int width) {
    float degree = 0.f, entropy = 0.f;
    s[own] = 0.f;
    for (int from = 0; from < width; from += TILE) {
        int to = from + TILE < width ? from + TILE : width;
        float share = pieces[from / TILE].peak;
#pragma omp simd reduction(+ : degree, entropy)
        for (int j = from; j < to; j++) {
            float weight = s[j] * share;
            degree += weight;
            entropy -= weight * log2_of(weight > FLT_MIN ? weight : FLT_MIN);
        }
    }
    job->degree[row] = degree;
    job->entropy[row] = entropy * LN_2;
}

/* A part of an item's queries. */
static void capture_part(void *argument, int part) {
    Capture *job = argument;
    int n = job->n, m = job->m, item = part / job->parts, example = item / job->heads, head = item % job->heads;
    int first = (int)((int64_t)n * (part % job->parts) / job->parts);
    int last = (int)((int64_t)n * (part % job->parts + 1) / job->parts);
    int tiles = (m + TILE - 1) / TILE;
    size_t ld = ((size_t)m + 15) / 16 * 16 + 16; /* no power of 2, which would share places in the cache */
    int blocks = tiles * (TILE / BLOCK);
    size_t pieces_size = (size_t)job->strip * tiles * (sizeof(Piece) / sizeof(float));
    float *s = scratch(job->strip * (ld + 1) + 2 * TILE + pieces_size + (size_t)job->strip * blocks + 2 * ld);
    if (!s) {
        job->failed = 1;
        return;
    }
    float *degrees = s + job->strip * ld, *logs = degrees + TILE;
    Piece *pieces = (Piece *)(logs + TILE);
    float *maxima = logs + TILE + pieces_size;
    Edge *edges = (Edge *)(maxima + (size_t)job->strip * blocks);
    int *seen = (int *)(edges + ld);
    const float *query = job->query + example * job->query_example + head * job->query_head;
    const float *key = job->key + example * job->key_example + head * job->key_head;
    const float *x = job->x ? job->x + (size_t)item * m * job->columns : NULL;
    double *value_degree = job->value_degree + (size_t)part * m;
    double *value_log = job->value_log ? job->value_log + (size_t)part * m : NULL;
    float *at_values = job->at_values ? job->at_values + (size_t)part * m * job->rows : NULL;
    memset(value_degree, 0, m * sizeof(double));
    if (value_log) memset(value_log, 0, m * sizeof(double));
    if (at_values) memset(at_values, 0, (size_t)m * job->rows * sizeof(float));
    for (int start = first; start < last; start += job->strip) {
        int count = start + job->strip < last ? job->strip : last - start, width = 0;
        for (int i = 0; i < count; i++) {
            seen[i] = job->triangular ? start + i + 1 + m - n : m;
            if (seen[i] < 0 || (job->valid && !job->valid[(size_t)example * n + start + i])) seen[i] = 0;
            width = seen[i] > width ? seen[i] : width;
        }
        size_t row = (size_t)item * n + start;
        int used = (width + TILE - 1) / TILE;
        for (int t = 0; t < used; t++) {
            int from = t * TILE, to = from + TILE < width ? from + TILE : width;
            equal_product_nt(count, to - from, job->d, job->scale * LOG2_E, query + (int64_t)start * job->query_row,
                       job->query_row, key + (int64_t)from * job->key_row, job->key_row, 0.f, s + from, (long)ld);
            for (int i = 0; i < count; i++) {
                float *piece = s + i * ld + from;
                int end = seen[i] < from ? from : seen[i] < to ? seen[i] : to;
                if (job->mask) {
                    const uint8_t *mask =
                        job->mask + example * job->mask_example + (int64_t)(start + i) * job->mask_row + from;
#pragma omp simd
                    for (int j = 0; j < end - from; j++) piece[j] = mask[j] ? piece[j] : HIDDEN;
                }
                pieces[i * tiles + t] = take_piece(piece, end - from, maxima + i * blocks + from / BLOCK);
                memset(s + i * ld + end, 0, (to - end) * sizeof(float));
            }
        }
        for (int i = 0; i < count; i++) {
            float normaliser = join_pieces(job, row + i, pieces + i * tiles, used);
            int own = start + i;
            if (job->without_loops && own < seen[i])
                leave_loop_out(job, row + i, s + i * ld, pieces + i * tiles, own, seen[i]);
            if (job->loops)
                job->loops[row + i] = own < seen[i] ? s[i * ld + own] * pieces[i * tiles + own / TILE].peak : 0.f;
            if (job->top)
                keep_heaviest(job, row + i, s + i * ld, pieces + i * tiles, maxima + i * blocks, seen[i], normaliser,
                              edges);
        }
        for (int t = 0; t < used; t++) {
            int from = t * TILE, to = from + TILE < width ? from + TILE : width;
            memset(degrees, 0, sizeof(float) * TILE);
            memset(logs, 0, sizeof(float) * TILE);
            for (int i = 0; i < count; i++) {
                float *piece = s + i * ld + from, share = pieces[i * tiles + t].peak;
                if (x || at_values || value_log) {
#pragma omp simd
                    for (int j = 0; j < to - from; j++) {
                        piece[j] *= share;
                        degrees[j] += piece[j];
                    }
                } else {
#pragma omp simd
                    for (int j = 0; j < to - from; j++) degrees[j] += piece[j] * share;
                }
                if (value_log) {
#pragma omp simd
                    for (int j = 0; j < to - from; j++) {
                        float w = piece[j] > FLT_MIN ? piece[j] : FLT_MIN;
                        logs[j] += piece[j] * log2_of(w);
                    }
                }
            }
            for (int j = from; j < to; j++) value_degree[j] += degrees[j - from];
            if (value_log)
                for (int j = from; j < to; j++) value_log[j] += logs[j - from];
        }
        if (x && width)
            product_nn(count, job->columns, width, 1.f, s, (long)ld, x, job->columns, 0.f,
                       job->at_queries + row * job->columns, job->columns);
        else if (x)
            memset(job->at_queries + row * job->columns, 0, (size_t)count * job->columns * sizeof(float));
        if (at_values && width)
            product_tn(width, job->rows, count, 1.f, s, (long)ld, job->y + row * job->rows, job->rows, 1.f,
                       at_values, job->rows);
    }
}

/* 0, or 1 if there was no memory. */
EXPORT int attngraph_capture(Capture *job, int threads) {
    job->failed = 0;
    for_each(capture_part, job, job->items * job->parts, threads);
    return job->failed;
}
