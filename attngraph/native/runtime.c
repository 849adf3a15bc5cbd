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

/* BLAS stores matrices column by column: to it, ours are transposed. */
static void product(char first, char second, int rows, int columns, int k, float alpha, const float *a, long lda,
                    const float *b, long ldb, float beta, float *c, long ldc) {
    int la = (int)lda, lb = (int)ldb, lc = (int)ldc;
    sgemm(&first, &second, &columns, &rows, &k, &alpha, b, &lb, a, &la, &beta, c, &lc);
}

void product_nt(int n, int m, int k, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc) {
    product('T', 'N', n, m, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void product_nn(int n, int d, int m, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc) {
    product('N', 'N', n, d, m, alpha, a, lda, b, ldb, beta, c, ldc);
}

void product_tn(int m, int d, int n, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc) {
    product('N', 'T', m, d, n, alpha, a, lda, b, ldb, beta, c, ldc);
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
        if (item >= region->count) return;
        region->work(region->job, item);
    }
}

void for_each(Work work, void *job, int count, int threads) {
    Region region = {work, job, count, 0};
    if (threads > count) threads = count;
    if (gomp_parallel && threads > 1)
        gomp_parallel(take_items, &region, (unsigned)threads, 0);
    else
        take_items(&region);
}

static _Thread_local float *room;
static _Thread_local size_t held;
static pthread_key_t rooms; /* frees a thread's room when the thread ends */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_key(void) { pthread_key_create(&rooms, free); }

float *scratch(size_t floats) {
    if (floats > held) {
        pthread_once(&once, make_key);
        free(room);
        held = 0;
        size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
        room = aligned_alloc(64, bytes);
        pthread_setspecific(rooms, room);
        if (!room) return NULL;
        held = bytes / sizeof(float);
    }
    return room;
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
