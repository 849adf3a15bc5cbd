r"""Triton kernels of attention and one p-Laplacian step; ``_triton_launch.py`` describes their arguments and
launches them.

No array of all edges is made: every kernel computes the numbers of a tile of edges again, from queries,
keys, values and the row normalisers. A program owns a block of queries, or of values, and visits that block's
tiles in order: no two programs add to one number, and results are the same in every run.

====================  ======  =======================================================================
kernel                owns    computes
====================  ======  =======================================================================
``_normalise``        rows    :math:`L_i = \log_2 \sum_j 2^{s_{ij}}`
``_degrees``          values  :math:`E_j`; in a causal graph that with which each block of rows begins
``_messages``         rows    :math:`\bar U`, :math:`\log_2 S_i`, and :math:`M V`
``_prepare``          rows    gradients of messages, of :math:`\log S_i` and of the residual
``_to_values``        values  gradients of degrees and values, and the keys' without the softmax's mean
``_to_queries``       rows    gradients of queries, query features and p, and the softmax's mean
``_to_keys``          values  gradients of keys
====================  ======  =======================================================================

Products of float32 are ``tf32x3``, three TF32 products that are about as exact as float32: a squared distance
is a difference of lengths, :math:`|q|^2 + |v|^2/e - 2 q \cdot v/\sqrt e`, and the ten bits of a single TF32
product would leave nothing of a small one. Scores of queries and keys in half precision are products in half
precision, which are exact, summed in float32.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1 / math.log(2))
HIDDEN = tl.constexpr(-1e30)  # the score of a hidden edge
HIDES_BELOW = tl.constexpr(-9e3)  # an additive mask at or below this hides an edge
LEAST = tl.constexpr(2.0**-63)  # degrees and squared distances are at least this
SHARE = tl.constexpr(8 * 2.0**-23)  # and squared distances this share of the squared lengths
BOOL = tl.constexpr(1)  # a kind of mask: True shows an edge; the other is added


# ---- loads and stores ---------------------------------------------------------------------------------


@triton.jit
def _load(array, head, rows, count, x, meta: tl.constexpr):
    """Rows of an array, ``(rows, width)``; 0 beyond its end."""
    column = tl.arange(0, meta.width)
    at = array.data + (head // x.heads) * array.example + (head % x.heads) * array.head
    at += rows[:, None].to(tl.int64) * array.row + column[None, :]
    return tl.load(at, mask=(rows < count)[:, None] & (column < x.d)[None, :], other=0.0)


@triton.jit
def _load_wide(array, head, rows, count, x, meta: tl.constexpr):
    """The same in float32."""
    return _load(array, head, rows, count, x, meta).to(tl.float32)


@triton.jit
def _at(data, head, rows, count, x, meta: tl.constexpr):
    """Where rows of a contiguous array ``(g, count, d)`` lie, and which of them are there."""
    column = tl.arange(0, meta.width)
    at = data + (head * count + rows)[:, None] * x.d + column[None, :]
    return at, (rows < count)[:, None] & (column < x.d)[None, :]


@triton.jit
def _store(data, head, rows, count, numbers, x, meta: tl.constexpr):
    """Write rows of a contiguous array, in its type."""
    at, there = _at(data, head, rows, count, x, meta)
    tl.store(at, numbers.to(data.dtype.element_ty), mask=there)


@triton.jit
def _valid(head, i, x, meta: tl.constexpr):
    """Which queries are there and not padded."""
    there = i < x.n
    if meta.padded:
        there = there & (tl.load(x.valid + (head // x.heads) * x.n + i, mask=there, other=0) != 0)
    return there


@triton.jit
def _end_of_row(block, x, meta: tl.constexpr):
    """Values at and beyond this are seen by no query of a block."""
    end = x.m
    if meta.triangular:
        end = tl.minimum(x.m, (block + 1) * meta.rows + x.m - x.n)
    return end


@triton.jit
def _first_block(column, x, meta: tl.constexpr):
    """The first block of rows that sees any value from ``column`` on."""
    first = 0
    if meta.triangular:
        first = tl.maximum(column + x.n - x.m, 0) // meta.rows
    return first


# ---- numbers of a tile --------------------------------------------------------------------------------


@triton.jit
def _product(a, b, meta: tl.constexpr):
    return tl.dot(a, b, input_precision=meta.precision)


@triton.jit
def _logits(query, key, head, i, j, x, meta: tl.constexpr):
    """Masked scores to base 2."""
    if meta.wide:
        query, key = query.to(tl.float32), key.to(tl.float32)
    scores = _product(query, tl.trans(key), meta) * (x.scale * LOG2_E)
    there = (j < x.m)[None, :]
    shown = there
    if meta.triangular:
        shown = shown & (j[None, :] <= i[:, None] + (x.m - x.n))
    if meta.mask:
        at = x.mask.data + (head // x.heads) * x.mask.example
        at += i[:, None].to(tl.int64) * x.mask.row + j[None, :].to(tl.int64) * x.mask.column
        mask = tl.load(at, mask=(i < x.n)[:, None] & there, other=0)
        if meta.mask == BOOL:
            shown = shown & (mask != 0)
        else:
            mask = mask.to(tl.float32)
            shown = shown & (mask > HIDES_BELOW)
            scores += tl.where(shown, mask, 0.0) * LOG2_E
    return tl.where(shown, scores, HIDDEN)


@triton.jit
def _total(weight, degree, head, block, j, x, meta: tl.constexpr):
    """E of a tile, ``(1, columns)`` or, in a causal graph, ``(rows, columns)``."""
    there = j < x.m
    if meta.causal:
        begin = tl.load(degree + _carry(head, block, x, meta) + j, mask=there, other=1.0)
        total = tl.maximum(begin[None, :] + tl.cumsum(weight, 0), LEAST)
    else:
        total = tl.load(degree + head * x.m + j, mask=there, other=1.0)[None, :]
    return total


@triton.jit
def _carry(head, block, x, meta: tl.constexpr):
    """Where the carries of a block of rows begin."""
    return ((head - x.first) * tl.cdiv(x.n, meta.rows) + block) * x.m


@triton.jit
def _rsqrt_degree(total, head, i, x, meta: tl.constexpr):
    """1/√e from E."""
    if meta.mean:
        at = x.degree_scale.data + (head // x.heads) * x.degree_scale.example
        if meta.causal:
            scale = tl.load(at + i * x.degree_scale.row, mask=i < x.n, other=1.0)[:, None]
        else:
            scale = tl.load(at)
        total = tl.maximum(total * scale, LEAST)
    return tl.rsqrt(total)


@triton.jit
def _distance(query_g, value, norm_q, norm_v, rsqrt_e, meta: tl.constexpr):
    """R² before it is lifted, the least that it may be, and |v|²/e."""
    lengths = norm_v[None, :] * rsqrt_e * rsqrt_e
    square = lengths - 2.0 * _product(query_g, tl.trans(value), meta) * rsqrt_e + norm_q[:, None]
    return square, SHARE * (lengths + norm_q[:, None]) + LEAST, lengths


@triton.jit
def _kappa(log_sum, residual):
    """S / (S + r), 0 for a query without edges; and the residual's share."""
    kappa = tl.where(residual == 0, 1.0, 1.0 / (1.0 + residual * tl.exp2(-log_sum)))
    kappa = tl.where(log_sum == float("inf"), 0.0, kappa)
    return kappa, tl.where(residual == 0, 0.0, 1.0 - kappa)


# ---- forward ------------------------------------------------------------------------------------------


@triton.jit
def _normalise(x, results, meta: tl.constexpr):
    head, block = (tl.program_id(1) + x.first).to(tl.int64), tl.program_id(0)
    i = block * meta.rows + tl.arange(0, meta.rows)
    query = _load(x.query, head, i, x.n, x, meta)
    high = tl.full([meta.rows], HIDDEN / 4, tl.float32)
    total = tl.zeros([meta.rows], tl.float32)
    for start in range(0, _end_of_row(block, x, meta), meta.columns):
        j = start + tl.arange(0, meta.columns)
        logits = _logits(query, _load(x.key, head, j, x.m, x, meta), head, i, j, x, meta)
        new = tl.maximum(high, tl.max(logits, 1))
        total = total * tl.exp2(high - new) + tl.sum(tl.exp2(logits - new[:, None]), 1)
        high = new
    log_total = tl.where(total > 0, high + tl.log2(tl.where(total > 0, total, 1.0)), 0.0)
    tl.store(results.log_total + head * x.n + i, log_total, mask=i < x.n)


@triton.jit
def _degrees(x, results, meta: tl.constexpr):
    head, block = (tl.program_id(1) + x.first).to(tl.int64), tl.program_id(0)
    j = block * meta.columns + tl.arange(0, meta.columns)
    there = j < x.m
    key = _load(x.key, head, j, x.m, x, meta)
    value, value_g = _load_wide(x.value, head, j, x.m, x, meta), _load_wide(x.value_g, head, j, x.m, x, meta)
    tl.store(results.norm_v + head * x.m + j, tl.sum(value * value_g, 1), mask=there)
    total = tl.zeros([meta.columns], tl.float32)
    if meta.past:
        total = tl.load(x.past + head * x.m + j, mask=there, other=0.0)
    first = _first_block(block * meta.columns, x, meta)
    for rows in range(first, tl.cdiv(x.n, meta.rows)):
        i = rows * meta.rows + tl.arange(0, meta.rows)
        if meta.causal:
            tl.store(results.degree + _carry(head, rows, x, meta) + j, total, mask=there)
        logits = _logits(_load(x.query, head, i, x.n, x, meta), key, head, i, j, x, meta)
        log_total = tl.load(results.log_total + head * x.n + i, mask=i < x.n, other=0.0)
        weight = tl.exp2(logits - log_total[:, None])
        total += tl.sum(tl.where(_valid(head, i, x, meta)[:, None], weight, 0.0), 0)
    if not meta.causal:
        tl.store(results.degree + head * x.m + j, tl.maximum(total, LEAST), mask=there)


@triton.jit
def _messages(x, results, out, context, meta: tl.constexpr):
    head, block = (tl.program_id(1) + x.first).to(tl.int64), tl.program_id(0)
    i = block * meta.rows + tl.arange(0, meta.rows)
    there, valid = i < x.n, _valid(head, i, x, meta)
    half_p, residual = 0.5 * tl.load(x.p), tl.load(x.residual)
    query, node = _load(x.query, head, i, x.n, x, meta), _load_wide(x.node, head, i, x.n, x, meta)
    query_g = _load_wide(x.query_g, head, i, x.n, x, meta)
    norm_q = tl.sum(query_g * node, 1)
    log_total = tl.load(results.log_total + head * x.n + i, mask=there, other=0.0)
    high = tl.full([meta.rows], HIDDEN / 4, tl.float32)
    total = tl.zeros([meta.rows], tl.float32)
    message = tl.zeros([meta.rows, meta.width], tl.float32)
    attended = tl.zeros([meta.rows, meta.width], tl.float32)
    for start in range(0, _end_of_row(block, x, meta), meta.columns):
        j = start + tl.arange(0, meta.columns)
        value = _load_wide(x.value, head, j, x.m, x, meta)
        key = _load(x.key, head, j, x.m, x, meta)
        log_weight = _logits(query, key, head, i, j, x, meta) - log_total[:, None]
        weight = tl.exp2(log_weight)
        if meta.context:
            attended += _product(weight, value, meta)
        edges = _total(tl.where(valid[:, None], weight, 0.0), results.degree, head, block, j, x, meta)
        rsqrt_e = _rsqrt_degree(edges, head, i, x, meta)
        norm_v = tl.load(results.norm_v + head * x.m + j, mask=j < x.m, other=0.0)
        square, least, _ = _distance(query_g, value, norm_q, norm_v, rsqrt_e, meta)
        log_square = tl.log2(tl.maximum(square, least))
        logits = tl.where(valid[:, None], half_p * (log_weight + log_square) - log_square, HIDDEN)
        new = tl.maximum(high, tl.max(logits, 1))
        power, shrink = tl.exp2(logits - new[:, None]), tl.exp2(high - new)
        total = total * shrink + tl.sum(power, 1)
        message = message * shrink[:, None] + _product(power * rsqrt_e, value, meta)
        high = new
    some = total > 0
    total = tl.where(some, total, 1.0)
    message = message / total[:, None]
    log_sum = tl.where(some, high + tl.log2(total), float("inf"))
    kappa, beta = _kappa(log_sum, residual)
    tl.store(results.norm_q + head * x.n + i, norm_q, mask=there)
    tl.store(results.log_sum + head * x.n + i, log_sum, mask=there)
    _store(results.message, head, i, x.n, message, x, meta)
    _store(out, head, i, x.n, kappa[:, None] * message + beta[:, None] * node, x, meta)
    if meta.context:
        _store(context, head, i, x.n, attended, x, meta)


# ---- backward -----------------------------------------------------------------------------------------


@triton.jit
def _prepare(x, results, up, meta: tl.constexpr):
    head, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    i = block * meta.rows + tl.arange(0, meta.rows)
    there, at = i < x.n, head * x.n + i
    residual = tl.load(x.residual)
    log_sum = tl.load(results.log_sum + at, mask=there, other=float("inf"))
    grad = _load_wide(up.out, head, i, x.n, x, meta)
    node = _load_wide(x.node, head, i, x.n, x, meta)
    place, inside = _at(results.message, head, i, x.n, x, meta)
    message = tl.load(place, mask=inside, other=0.0)
    kappa, _ = _kappa(log_sum, residual)
    apart = tl.sum(grad * (message - node), 1)
    grad_log_sum = kappa * (1.0 - kappa) * apart
    total = tl.maximum(tl.exp2(log_sum) + residual, 2.0**-126)
    tl.store(up.kappa + at, kappa, mask=there)
    tl.store(up.log_sum + at, grad_log_sum, mask=there)
    tl.store(up.offset + at, kappa * tl.sum(grad * message, 1) - grad_log_sum, mask=there)
    tl.store(up.residual + at, -kappa * apart / total, mask=there)


@triton.jit
def _edges(query, key, value, query_g, grad, head, block, i, j, x, results, up, meta: tl.constexpr):
    """Quantities of a tile that both backward kernels need.

    Args:
        grad: of the messages.

    Returns:
        M; M without padded queries; 1/√e; the weights over their sum; gradients of log w; of R² over p/2 - 1,
        where it was not lifted, and where it was, of the lengths; of log 1/√e over E, times -1/2; log2 M R².
    """
    there = i < x.n
    half_p = 0.5 * tl.load(x.p)
    half = half_p - 1.0
    log_total = tl.load(results.log_total + head * x.n + i, mask=there, other=0.0)
    log_sum = tl.load(results.log_sum + head * x.n + i, mask=there, other=float("inf"))
    norm_q = tl.load(results.norm_q + head * x.n + i, mask=there, other=0.0)
    norm_v = tl.load(results.norm_v + head * x.m + j, mask=j < x.m, other=0.0)
    offset = tl.load(up.offset + head * x.n + i, mask=there, other=0.0)[:, None]
    logs = _logits(query, key, head, i, j, x, meta) - log_total[:, None]
    weight = tl.exp2(logs)
    counted = tl.where(_valid(head, i, x, meta)[:, None], weight, 0.0)
    total = _total(counted, results.degree, head, block, j, x, meta)
    rsqrt_e = _rsqrt_degree(total, head, i, x, meta)
    square, least, lengths = _distance(query_g, value, norm_q, norm_v, rsqrt_e, meta)
    clamped = square < least
    square = tl.maximum(square, least)
    log_square = tl.log2(square)
    logs += log_square
    sigma = tl.exp2(half_p * logs - log_square - log_sum[:, None])
    grad_log = sigma * (_product(grad, tl.trans(value), meta) * rsqrt_e - offset)
    slope = grad_log / square
    near = tl.where(clamped, 0.0, slope)
    lifted = tl.where(clamped, SHARE * slope, 0.0)
    of_log_e = near * (lengths - norm_q[:, None]) + tl.where(clamped, 2.0 * lengths * lifted, grad_log)
    of_log_e = grad_log + sigma * offset + half * of_log_e
    return weight, counted, rsqrt_e, sigma, grad_log, near, lifted, -0.5 * of_log_e / total, logs


@triton.jit
def _to_values(x, results, up, grads, meta: tl.constexpr):
    head, column = (tl.program_id(1) + x.first).to(tl.int64), tl.program_id(0) * meta.columns
    j = column + tl.arange(0, meta.columns)
    there = j < x.m
    half_p = 0.5 * tl.load(x.p)
    half = half_p - 1.0
    key, value = _load(x.key, head, j, x.m, x, meta), _load_wide(x.value, head, j, x.m, x, meta)
    grad_degree = tl.zeros([meta.columns], tl.float32)
    grad_norm = tl.zeros([meta.columns], tl.float32)
    grad_value = tl.zeros([meta.columns, meta.width], tl.float32)
    grad_key = tl.zeros([meta.columns, meta.width], tl.float32)
    first, last = _first_block(column, x, meta), tl.cdiv(x.n, meta.rows) - 1
    for step in range(0, last + 1 - first):
        block = last - step  # in a causal graph the gradients of degrees come from later rows
        i = block * meta.rows + tl.arange(0, meta.rows)
        query, query_g = _load(x.query, head, i, x.n, x, meta), _load_wide(x.query_g, head, i, x.n, x, meta)
        kappa = tl.load(up.kappa + head * x.n + i, mask=i < x.n, other=0.0)
        grad = _load_wide(up.out, head, i, x.n, x, meta) * kappa[:, None]
        weight, counted, rsqrt_e, sigma, grad_log, near, lifted, of_degree, _ = _edges(
            query, key, value, query_g, grad, head, block, i, j, x, results, up, meta
        )
        score = half_p * grad_log
        if meta.causal:
            tl.store(grads.degree + _carry(head, block, x, meta) + j, grad_degree, mask=there)
            score += counted * (grad_degree[None, :] + tl.cumsum(of_degree, 0, reverse=True))
        grad_degree += tl.sum(of_degree, 0)
        if meta.context:
            above = _load_wide(up.context, head, i, x.n, x, meta)
            if meta.keys:
                score += weight * _product(above, tl.trans(value), meta)
            if meta.values:
                grad_value += _product(tl.trans(weight), above, meta)
        if meta.values:
            grad_norm += tl.sum((near + lifted) * rsqrt_e * rsqrt_e, 0)
            grad_value += _product(tl.trans(sigma * rsqrt_e), grad, meta)
            grad_value += _product(tl.trans(-2.0 * half * near * rsqrt_e), query_g, meta)
        if meta.keys:
            grad_key += _product(tl.trans(score), query.to(tl.float32), meta)
    if not meta.causal:
        tl.store(grads.degree + head * x.m + j, grad_degree, mask=there)
    if meta.values:
        value_g = _load_wide(x.value_g, head, j, x.m, x, meta)
        _store(grads.value, head, j, x.m, grad_value + 2.0 * half * grad_norm[:, None] * value_g, x, meta)
    if meta.keys:
        _store(grads.key, head, j, x.m, grad_key, x, meta)


@triton.jit
def _to_queries(x, results, up, grads, meta: tl.constexpr):
    head, block = (tl.program_id(1) + x.first).to(tl.int64), tl.program_id(0)
    i = block * meta.rows + tl.arange(0, meta.rows)
    there, at = i < x.n, head * x.n + i
    half_p = 0.5 * tl.load(x.p)
    half = half_p - 1.0
    query = _load(x.query, head, i, x.n, x, meta)
    query_g = _load_wide(x.query_g, head, i, x.n, x, meta)
    kappa = tl.load(up.kappa + at, mask=there, other=0.0)
    grad = _load_wide(up.out, head, i, x.n, x, meta) * kappa[:, None]
    # the gradient of the scores is score - mean · weight
    grad_score = tl.zeros([meta.rows, meta.width], tl.float32)
    of_mean = tl.zeros([meta.rows, meta.width], tl.float32)
    through = tl.zeros([meta.rows, meta.width], tl.float32)
    mean = tl.zeros([meta.rows], tl.float32)
    grad_norm = tl.zeros([meta.rows], tl.float32)
    grad_p = tl.zeros([meta.rows], tl.float32)
    for start in range(0, _end_of_row(block, x, meta), meta.columns):
        j = start + tl.arange(0, meta.columns)
        key, value = _load(x.key, head, j, x.m, x, meta), _load_wide(x.value, head, j, x.m, x, meta)
        weight, counted, rsqrt_e, _, grad_log, near, lifted, of_degree, logs = _edges(
            query, key, value, query_g, grad, head, block, i, j, x, results, up, meta
        )
        if meta.causal:
            later = tl.load(grads.degree + _carry(head, block, x, meta) + j, mask=j < x.m, other=0.0)
            score = counted * (later[None, :] + tl.cumsum(of_degree, 0, reverse=True))
        else:
            score = counted * tl.load(grads.degree + head * x.m + j, mask=j < x.m, other=0.0)[None, :]
        if meta.context:
            above = _load_wide(up.context, head, i, x.n, x, meta)
            score += weight * _product(above, tl.trans(value), meta)
        mean += tl.sum(score, 1)
        key = key.to(tl.float32)
        grad_score += _product(score + half_p * grad_log, key, meta)
        of_mean += _product(weight, key, meta)
        through += _product(near * rsqrt_e, value, meta)
        grad_norm += tl.sum(near + lifted, 1)
        grad_p += tl.sum(grad_log * logs, 1)
    mean += half_p * tl.load(up.log_sum + at, mask=there, other=0.0)
    tl.store(up.mean + at, mean, mask=there)
    tl.store(up.p + at, grad_p * (0.5 / LOG2_E), mask=there)
    node = _load_wide(x.node, head, i, x.n, x, meta)
    grad_query = x.scale * (grad_score - mean[:, None] * of_mean)
    through = 2.0 * half * (grad_norm[:, None] * node - through)
    log_sum = tl.load(results.log_sum + at, mask=there, other=float("inf"))
    _, beta = _kappa(log_sum, tl.load(x.residual))
    grad_node = beta[:, None] * _load_wide(up.out, head, i, x.n, x, meta)
    if meta.metric:
        _store(grads.through, head, i, x.n, through, x, meta)
    else:
        grad_node += through
    if meta.feature:
        _store(grads.node, head, i, x.n, grad_node, x, meta)
    else:
        grad_query += grad_node
    _store(grads.query, head, i, x.n, grad_query, x, meta)


@triton.jit
def _to_keys(x, results, up, grads, meta: tl.constexpr):
    head, column = tl.program_id(1).to(tl.int64), tl.program_id(0) * meta.columns
    j = column + tl.arange(0, meta.columns)
    key = _load(x.key, head, j, x.m, x, meta)
    at, inside = _at(grads.key, head, j, x.m, x, meta)
    grad_key = tl.load(at, mask=inside, other=0.0)
    for block in range(_first_block(column, x, meta), tl.cdiv(x.n, meta.rows)):
        i = block * meta.rows + tl.arange(0, meta.rows)
        query = _load(x.query, head, i, x.n, x, meta)
        log_total = tl.load(results.log_total + head * x.n + i, mask=i < x.n, other=0.0)
        weight = tl.exp2(_logits(query, key, head, i, j, x, meta) - log_total[:, None])
        factor = -tl.load(up.mean + head * x.n + i, mask=i < x.n, other=0.0)[:, None]
        if not meta.causal:
            grad_degree = tl.load(grads.degree + head * x.m + j, mask=j < x.m, other=0.0)
            factor += tl.where(_valid(head, i, x, meta)[:, None], grad_degree[None, :], 0.0)
        grad_key += _product(tl.trans(weight * factor), query.to(tl.float32), meta)
    tl.store(at, x.scale * grad_key, mask=inside)
