/* Matrix products and threads come from the libraries that torch has loaded already; see library.py, which hands
 * their addresses over. So there is no second pool of threads. */
#include "runtime.h"

#include <pthread.h>
#include <stdlib.h>

#ifndef ATTNGRAPH_SOURCE
#error "setup.py defines ATTNGRAPH_SOURCE, the hash of the sources"
#endif

typedef void (*Sgemm)(const char *, const char *, const int *, const int *, const int *, const float *, const float *,
                      const int *, const float *, const int *, const float *, float *, const int *);
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static Sgemm sgemm;
static Parallel gomp_parallel;

/* The hash of the sources that this library was built from. */
EXPORT const char *attngraph_source(void) { return ATTNGRAPH_SOURCE; }

/* Hand over BLAS's sgemm_, and libgomp's GOMP_parallel or NULL. */
EXPORT void attngraph_start(void *sgemm_, void *gomp_parallel_) {
    sgemm = (Sgemm)sgemm_;
    gomp_parallel = (Parallel)gomp_parallel_;
}

/* ---- matrix products ---------------------------------------------------------------------------------------- */

#define PRODUCTS 262144 /* so many multiplications, or fewer, are done here: BLAS prepares them for as long */
#define PACKED 8192     /* so many numbers of a transposed matrix, at most */

#if defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#if defined(__clang__)
#define PICK(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(4 * LANES)));
#define PICK(x, y, ...) __builtin_shuffle(x, y, (Places){__VA_ARGS__})
#endif

/* The sums of as many vectors as each has numbers. `pairs` adds neighbours: x0 + x1, x2 + x3, y0 + y1, y2 + y3; of
 * eight numbers in each half. */
#if LANES == 8
static inline Vector pairs(Vector x, Vector y) {
    return PICK(x, y, 0, 2, 8, 10, 4, 6, 12, 14) + PICK(x, y, 1, 3, 9, 11, 5, 7, 13, 15);
}

static inline Vector sums(const Vector *x) {
    Vector first = pairs(pairs(x[0], x[1]), pairs(x[2], x[3])), last = pairs(pairs(x[4], x[5]), pairs(x[6], x[7]));
    return PICK(first, last, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(first, last, 4, 5, 6, 7, 12, 13, 14, 15);
}
#else
static inline Vector pairs(Vector x, Vector y) { return PICK(x, y, 0, 2, 4, 6) + PICK(x, y, 1, 3, 5, 7); }

static inline Vector sums(const Vector *x) { return pairs(pairs(x[0], x[1]), pairs(x[2], x[3])); }
#endif

static inline Vector load(const float *x) { return *(const Vector *)x; }

/* alpha sum + beta c, in the place of c. */
static inline void store(float *c, float alpha, Vector sum, float beta) {
    sum *= alpha;
    if (beta != 0) sum += beta * load(c);
    *(Vector *)c = sum;
}

/* Rows of C = alpha A B + beta C, and LANES `vectors` columns. A's rows and columns lie `row` and `column` apart. With
 * constants for rows and vectors sums stay in registers. */
static inline __attribute__((always_inline)) void block(const int rows, const int vectors, int k, float alpha,
                                                        const float *a, long row, long column, const float *b, long ldb,
                                                        float beta, float *c, long ldc) {
    Vector sum[4][2] = {{{0}}};
    for (int l = 0; l < k; l++)
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++) sum[i][v] += a[i * row + l * column] * load(b + l * ldb + LANES * v);
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) store(c + i * ldc + LANES * v, alpha, sum[i][v], beta);
}

/* The same for all rows. */
static inline __attribute__((always_inline)) void column_block(const int vectors, int rows, int k, float alpha,
                                                               const float *a, long row, long column, const float *b,
                                                               long ldb, float beta, float *c, long ldc) {
    int i = 0;
    for (; i + 4 <= rows; i += 4) block(4, vectors, k, alpha, a + i * row, row, column, b, ldb, beta, c + i * ldc, ldc);
    for (; i < rows; i++) block(1, vectors, k, alpha, a + i * row, row, column, b, ldb, beta, c + i * ldc, ldc);
}

/* The same for all columns, a multiple of 8 of them. */
static void small_product(int rows, int columns, int k, float alpha, const float *a, long row, long column,
                          const float *b, long ldb, float beta, float *c, long ldc) {
    int j = 0;
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        column_block(2, rows, k, alpha, a, row, column, b + j, ldb, beta, c + j, ldc);
    if (j < columns) column_block(1, rows, k, alpha, a, row, column, b + j, ldb, beta, c + j, ldc);
}

static int is_small(int rows, int columns, int k) { return (int64_t)rows * columns * k <= PRODUCTS; }

/* BLAS stores matrices column by column: to it, ours are transposed. */
static void product(char first, char second, int rows, int columns, int k, float alpha, const float *a, long lda,
                    const float *b, long ldb, float beta, float *c, long ldc) {
    int la = (int)lda, lb = (int)ldb, lc = (int)ldc;
    sgemm(&first, &second, &columns, &rows, &k, &alpha, b, &lb, a, &la, &beta, c, &lc);
}

/* Rows of B that are fetched before they are needed: from one page of memory to the next processors do not. */
#define AHEAD 32

/* Of a single row, as in decoding, BLAS would first copy the matrix. */
static void row_nt(int m, int k, float alpha, const float *restrict a, const float *restrict b, long ldb, float beta,
                   float *restrict c) {
    int j = 0;
    for (; j + LANES <= m && k % LANES == 0; j += LANES) {
        const float *rows = b + j * ldb;
        Vector sum[LANES] = {{0}};
        for (int v = 0; v < LANES; v++)
            for (int i = 0; i < k; i += 16) __builtin_prefetch(rows + (v + AHEAD) * ldb + i);
        for (int i = 0; i < k; i += LANES)
            for (int v = 0; v < LANES; v++) sum[v] += load(a + i) * load(rows + v * ldb + i);
        store(c + j, alpha, sums(sum), beta);
    }
    for (; j < m; j++) {
        const float *row = b + j * ldb;
        float total = 0;
        _Pragma("omp simd reduction(+ : total)") for (int i = 0; i < k; i++) total += a[i] * row[i];
        c[j] = alpha * total + (beta == 0 ? 0 : beta * c[j]);
    }
}

/* LANES `vectors` columns of a row of C; with a constant for vectors sums stay in registers. */
static inline __attribute__((always_inline)) void row_block(const int vectors, int m, float alpha, const float *a,
                                                            const float *b, long ldb, float beta, float *c) {
    Vector sum[8] = {{0}};
    for (int j = 0; j < m; j++)
        for (int v = 0; v < vectors; v++) sum[v] += a[j] * load(b + j * ldb + LANES * v);
    for (int v = 0; v < vectors; v++) store(c + LANES * v, alpha, sum[v], beta);
}

static void row_nn(int d, int m, float alpha, const float *restrict a, const float *restrict b, long ldb, float beta,
                   float *restrict c) {
    int i = 0;
    for (; i + 8 * LANES <= d; i += 8 * LANES) row_block(8, m, alpha, a, b + i, ldb, beta, c + i);
    for (; i + 2 * LANES <= d; i += 2 * LANES) row_block(2, m, alpha, a, b + i, ldb, beta, c + i);
    for (; i < d; i++) {
        float total = 0;
        for (int j = 0; j < m; j++) total += a[j] * b[j * ldb + i];
        c[i] = alpha * total + (beta == 0 ? 0 : beta * c[i]);
    }
}

void product_nt(int n, int m, int k, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc) {
    if (n == 1) {
        row_nt(m, k, alpha, a, b, ldb, beta, c);
        return;
    }
    int whole = m & ~7;
    if (!is_small(n, m, k) || whole * k > PACKED) {
        product('T', 'N', n, m, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    float columns[PACKED];
    for (int j = 0; j < whole; j += 8)
        for (int l = 0; l < k; l++)
            for (int v = 0; v < 8; v++) columns[l * whole + j + v] = b[(j + v) * ldb + l];
    small_product(n, whole, k, alpha, a, lda, 1, columns, whole, beta, c, ldc);
    for (int j = whole; j < m; j++)
        for (int i = 0; i < n; i++) {
            const float *x = a + i * lda, *y = b + j * ldb;
            float total = 0, *to = c + i * ldc + j;
            _Pragma("omp simd reduction(+ : total)") for (int l = 0; l < k; l++) total += x[l] * y[l];
            *to = beta == 0 ? alpha * total : alpha * total + beta * *to;
        }
}

void equal_product_nt(int n, int m, int k, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                      float *c, long ldc) {
    product('T', 'N', n, m, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void product_nn(int n, int d, int m, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc) {
    if (n == 1) {
        row_nn(d, m, alpha, a, b, ldb, beta, c);
        return;
    }
    if (is_small(n, d, m) && d % 8 == 0)
        small_product(n, d, m, alpha, a, lda, 1, b, ldb, beta, c, ldc);
    else
        product('N', 'N', n, d, m, alpha, a, lda, b, ldb, beta, c, ldc);
}

void product_tn(int m, int d, int n, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc) {
    if (is_small(m, d, n) && d % 8 == 0)
        small_product(m, d, n, alpha, a, 1, lda, b, ldb, beta, c, ldc);
    else
        product('N', 'T', m, d, n, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* For each of some rows x as many numbers as a vector has, whose sum is x u xT, where u is an upper triangle. */
static inline __attribute__((always_inline)) void norm_block(const int rows, int d, const float *x, long ldx,
                                                             const float *u, Vector *norms) {
    for (int i = 0; i < rows; i++) norms[i] = (Vector){0};
    for (int c = 0; c < d; c += 2 * LANES) {
        Vector sum[4][2] = {{{0}}};
        for (int l = 0; l < c + 2 * LANES; l++)
            for (int i = 0; i < rows; i++)
                for (int v = 0; v < 2; v++) sum[i][v] += x[i * ldx + l] * load(u + l * d + c + LANES * v);
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < 2; v++) norms[i] += sum[i][v] * load(x + i * ldx + c + LANES * v);
    }
}

void square_norms(int n, int d, const float *x, long ldx, const float *g, float *room, float *norms) {
    Vector of_rows[LANES];
    for (int l = 0; l < d; l++)
        for (int c = 0; c < d; c++) room[l * d + c] = c < l ? 0 : c == l ? g[l * d + c] : g[l * d + c] + g[c * d + l];
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int v = 0; v < LANES; v += 4) norm_block(4, d, x + (i + v) * ldx, ldx, room, of_rows + v);
        *(Vector *)(norms + i) = sums(of_rows);
    }
    for (; i < n; i++) {
        norm_block(1, d, x + i * ldx, ldx, room, of_rows);
        norms[i] = 0;
        for (int v = 0; v < LANES; v++) norms[i] += of_rows[0][v];
    }
}

/* ---- threads and memory --------------------------------------------------------------------------------------- */

#define KEPT ((128u << 20) / sizeof(float)) /* numbers that a thread keeps room for between calls, at most */

static _Thread_local float *room;
static _Thread_local size_t held;
static pthread_key_t rooms; /* frees a thread's room when the thread ends */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_key(void) { pthread_key_create(&rooms, free); }

static void change_room(float *to, size_t floats) {
    free(room);
    room = to;
    held = floats;
    pthread_setspecific(rooms, room);
}

float *scratch(size_t floats) {
    if (floats > held) {
        pthread_once(&once, make_key);
        change_room(NULL, 0);
        size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
        float *larger = aligned_alloc(64, bytes);
        if (larger) change_room(larger, bytes / sizeof(float));
    }
    return floats > held ? NULL : room;
}

typedef struct {
    Work work;
    void *job;
    int count, next;
} Region;

static void take_items(void *argument) {
    Region *region = argument;
    for (;;) {
        int item = __atomic_fetch_add(&region->next, 1, __ATOMIC_RELAXED);
        if (item >= region->count) break;
        region->work(region->job, item);
    }
    if (held > KEPT) change_room(NULL, 0);
}

void for_each(Work work, void *job, int count, int threads) {
    Region region = {work, job, count, 0};
    if (threads > count) threads = count;
    if (gomp_parallel && threads > 1)
        gomp_parallel(take_items, &region, (unsigned)threads, 0);
    else
        take_items(&region);
}

/* For the self-test and the tests: 2^x, and log2 of it. */
EXPORT void attngraph_powers(const float *x, float *power, float *logarithm, int count) {
    for (int i = 0; i < count; i++) {
        power[i] = exp2_of(x[i]);
        logarithm[i] = log2_of(power[i]);
    }
}

/* The same for matrix products and threads: out[item] = A B[item]ᵀ for n x k matrices, over the threads. */
typedef struct {
    int n, k;
    const float *a, *b;
    float *out;
} Products;

static void product_of_item(void *argument, int item) {
    Products *job = argument;
    size_t size = (size_t)job->n * job->k;
    product_nt(job->n, job->n, job->k, 1.f, job->a, job->k, job->b + item * size, job->k, 0.f,
               job->out + (size_t)item * job->n * job->n, job->n);
}

EXPORT void attngraph_products(int items, int n, int k, const float *a, const float *b, float *out, int threads) {
    Products job = {n, k, a, b, out};
    for_each(product_of_item, &job, items, threads);
}
