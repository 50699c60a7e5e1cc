//! What each kernel of the network must do, whoever runs it: the CPU or a GPU. References are plain sums in f64.

use super::decode::NO_SLOT;
use super::{Rule, bf16, width};
use crate::backend::packed::Precision;
use crate::cuda::module::{self as m, Kernel};
use crate::random::{Stream, uniform};
use crate::sampling::Sampling;
use crate::tokens::{Token, Vocabulary};
use bytemuck::{Pod, cast_slice};

/// An argument: a buffer that is read, one that is written too, or a number.
pub(in crate::cuda) enum Value<'a> {
    In(Vec<u8>),
    Out(&'a mut Vec<u8>),
    U32(usize),
    F32(f32),
}

use Value::{F32, In, Out, U32};

/// Who runs kernels: `blocks` blocks of one with these arguments.
pub(in crate::cuda) trait RunKernel {
    fn run(&self, kernel: Kernel, blocks: usize, values: &mut [Value<'_>]);
}

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Numbers within ±1, those of bf16 if so asked.
pub(in crate::cuda) fn numbers(n: usize, seed: u64, precision: Precision) -> Vec<f32> {
    let value = |i| (2.0 * uniform(seed, 0, i) - 1.0) as f32;
    (0..n as u64).map(value).map(|v| if precision == Precision::F32 { v } else { from_bf16(bf16(v)) }).collect()
}

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

pub(in crate::cuda) fn bytes<T: Pod>(values: &[T]) -> Vec<u8> {
    cast_slice(values).to_vec()
}

/// As the kernels of `precision` read them.
pub(in crate::cuda) fn packed(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => bytes(values),
        Precision::Bf16 => bytes(&values.iter().map(|&v| bf16(v)).collect::<Vec<_>>()),
    }
}

pub(in crate::cuda) fn unpacked(packed: &[u8], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F32 => packed.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
        Precision::Bf16 => packed.chunks_exact(2).map(bytemuck::pod_read_unaligned).map(from_bf16).collect(),
    }
}

/// A buffer that nothing has been written to: what is no number in either precision.
pub(in crate::cuda) fn unwritten(n: usize, precision: Precision) -> Vec<u8> {
    vec![0xff; n * width(precision)]
}

fn by_precision<T>(precision: Precision, [f32, bf16]: [T; 2]) -> T {
    match precision {
        Precision::F32 => f32,
        Precision::Bf16 => bf16,
    }
}

/// Equal to rounding in `precision`, and to that of the sums in f32.
pub(in crate::cuda) fn assert_close(got: &[f32], expected: &[f64], precision: Precision, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let rounding = by_precision(precision, [2e-6, 5e-3]);
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        assert!(off <= rounding * expected.abs() + 4e-6, "{what}, {precision:?}: number {i} is {got}, not {expected}");
    }
}

fn norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f64> {
    let d = weight.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / d;
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / d;
    let rstd = 1.0 / (variance + f64::from(epsilon)).sqrt();
    let scaled = |((x, w), b): ((&f32, &f32), &f32)| (f64::from(*x) - mean) * rstd * f64::from(*w) + f64::from(*b);
    x.iter().zip(weight).zip(bias).map(scaled).collect()
}

/// Embedding and norm of rows, at widths that no warp divides.
pub(in crate::cuda) fn rows_are_embedded_and_normalised(run: &dyn RunKernel) {
    for (n, d) in [(1, 1), (9, 33), (17, 64), (3, 300)] {
        for precision in BOTH {
            let (vocabulary, positions) = (11, 7);
            let f32 = Precision::F32;
            let (wte, wpe) = (numbers(vocabulary * d, 1, f32), numbers(positions * d, 2, f32));
            let (weight, bias) = (numbers(d, 3, f32), numbers(d, 4, f32));
            let tokens: Vec<u32> = (0..n).map(|i| (i * 5 % vocabulary) as u32).collect();
            let places: Vec<u32> = (0..n).map(|i| (i * 3 % positions) as u32).collect();
            let (mut x, mut h) = (unwritten(n * d, f32), unwritten(n * d, precision));
            let mut again = h.clone();
            run.run(
                by_precision(precision, [m::EMBED_F32, m::EMBED_BF16]),
                n.div_ceil(8),
                &mut [
                    In(bytes(&tokens)),
                    In(bytes(&places)),
                    U32(n),
                    U32(d),
                    In(bytes(&wte)),
                    In(bytes(&wpe)),
                    In(bytes(&weight)),
                    In(bytes(&bias)),
                    F32(1e-5),
                    Out(&mut x),
                    Out(&mut h),
                ],
            );
            let rows: Vec<f32> = (0..n * d)
                .map(|i| wte[tokens[i / d] as usize * d + i % d] + wpe[places[i / d] as usize * d + i % d])
                .collect();
            assert_eq!(unpacked(&x, f32), rows, "{n} rows of {d}");
            let expected: Vec<f64> = rows.chunks(d).flat_map(|row| norm(row, &weight, &bias, 1e-5)).collect();
            assert_close(&unpacked(&h, precision), &expected, precision, "embedding");
            run.run(
                by_precision(precision, [m::NORM_F32, m::NORM_BF16]),
                n.div_ceil(8),
                &mut [
                    In(bytes(&rows)),
                    U32(n),
                    U32(d),
                    In(bytes(&weight)),
                    In(bytes(&bias)),
                    F32(1e-5),
                    Out(&mut again),
                ],
            );
            assert!(again == h, "{n} rows of {d}: the norm alone gives something else");
        }
    }
}

/// Means over sequences, one of which needs several rounds of a block.
pub(in crate::cuda) fn sequences_are_pooled(run: &dyn RunKernel) {
    for (d, lengths, first) in [(5, vec![1, 2, 9], 0), (300, vec![2, 31], 1), (3, vec![257, 600, 3], 2)] {
        let mut begins = vec![0u32];
        lengths.iter().for_each(|n| begins.push(begins[begins.len() - 1] + n));
        let f32 = Precision::F32;
        let (x, weight, bias) =
            (numbers(begins[lengths.len()] as usize * d, 1, f32), numbers(d, 2, f32), numbers(d, 3, f32));
        let mut out = unwritten(lengths.len() * d, f32);
        run.run(
            m::POOL,
            lengths.len(),
            &mut [
                In(bytes(&x)),
                In(bytes(&begins)),
                U32(first),
                U32(d),
                In(bytes(&weight)),
                In(bytes(&bias)),
                F32(1e-5),
                Out(&mut out),
            ],
        );
        let expected: Vec<f64> = begins
            .windows(2)
            .flat_map(|span| {
                let rows: Vec<Vec<f64>> = (span[0] as usize + first..span[1] as usize)
                    .map(|row| norm(&x[row * d..(row + 1) * d], &weight, &bias, 1e-5))
                    .collect();
                (0..d).map(move |c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64).collect::<Vec<_>>()
            })
            .collect();
        assert_close(&unpacked(&out, f32), &expected, f32, "pooling");
    }
}

/// `a` `[m, k]` times `b` `[k, n]` plus a bias, what the epilogue makes of it, and the precision of that.
fn epilogue(number: usize, sum: f64, bias: f32, before: f32) -> f64 {
    let biased = sum + f64::from(bias);
    match number {
        0 => sum,
        1 => biased,
        2 => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (biased + 0.044715 * biased.powi(3));
            0.5 * biased * (1.0 + u.tanh())
        }
        _ => f64::from(before) + biased,
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect()
}

/// Products of odd shapes in every layout and with every epilogue.
pub(in crate::cuda) fn matrices_are_multiplied(run: &dyn RunKernel, precision: Precision, shapes: &[[usize; 3]]) {
    for (turn, &[m, n, k]) in shapes.iter().enumerate() {
        let (a, b) = (numbers(m * k, 1, precision), numbers(k * n, 2, precision));
        let (bias, before) = (numbers(n, 3, Precision::F32), numbers(m * n, 4, Precision::F32));
        let at = |values: &[f32], i: usize| f64::from(values[i]);
        let sums: Vec<f64> =
            (0..m * n).map(|i| (0..k).map(|l| at(&a, i / n * k + l) * at(&b, l * n + i % n)).sum()).collect();
        let [a_across, b_across] = [transposed(&a, m, k), transposed(&b, k, n)];
        for variant in 0..4 {
            let number = (turn + variant) % 4;
            let stored = if number == 1 || number == 2 { precision } else { Precision::F32 };
            let mut c = if number == 3 { bytes(&before) } else { unwritten(m * n, stored) };
            let (kernel, side);
            let mut values = match precision {
                Precision::F32 => {
                    (kernel, side) = (m::PRODUCT_F32, 64);
                    let mut values = match variant & 1 {
                        0 => vec![In(bytes(&a)), U32(k), U32(1)],
                        _ => vec![In(bytes(&a_across)), U32(1), U32(m)],
                    };
                    values.extend(match variant >> 1 {
                        0 => [In(bytes(&b)), U32(n), U32(1)],
                        _ => [In(bytes(&b_across)), U32(1), U32(k)],
                    });
                    values
                }
                Precision::Bf16 => {
                    // A dense right factor has rows of a multiple of 8.
                    let dense = variant >> 1 == 0 && n % 8 == 0;
                    (kernel, side) = match (dense, variant & 1) {
                        (true, 0) => (m::PRODUCT_BF16, 128),
                        (true, _) => (m::PRODUCT_BF16_SMALL, 64),
                        (false, 0) => (m::PRODUCT_BF16_TRANSPOSED, 128),
                        (false, _) => (m::PRODUCT_BF16_TRANSPOSED_SMALL, 64),
                    };
                    vec![In(packed(&a, precision)), In(packed(if dense { &b } else { &b_across }, precision))]
                }
            };
            values.extend([In(bytes(&bias)), Out(&mut c), U32(m), U32(n), U32(k), U32(number)]);
            run.run(kernel, m.div_ceil(side) * n.div_ceil(side), &mut values);
            let expected: Vec<f64> = (0..m * n).map(|i| epilogue(number, sums[i], bias[i % n], before[i])).collect();
            let what = format!("{m} x {k} times {k} x {n}, variant {variant}, epilogue {number}");
            assert_close(&unpacked(&c, stored), &expected, stored, &what);
        }
    }
}

/// Attention of one query to the keys and values of all positions so far.
fn attention(query: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let scale = 1.0 / (query.len() as f64).sqrt();
    let weights: Vec<f64> = keys.iter().map(|key| (dot(query, key) * scale).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..query.len())
        .map(|c| weights.iter().zip(values).map(|(w, value)| w * f64::from(value[c])).sum::<f64>() / sum)
        .collect()
}

/// Sequences of many lengths, heads of odd and of wide widths.
pub(in crate::cuda) fn sequences_attend(run: &dyn RunKernel, lengths: &[usize]) {
    for (heads, dim) in [(3, 10), (2, 16), (1, 200), (2, 1)] {
        for precision in BOTH {
            let d = heads * dim;
            let n: usize = lengths.iter().sum();
            let qkv = numbers(n * 3 * d, 5, precision);
            let positions: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
            let mut out = unwritten(n * d, precision);
            run.run(
                by_precision(precision, [m::ATTEND_F32, m::ATTEND_BF16]),
                n.div_ceil(8) * heads,
                &mut [In(packed(&qkv, precision)), In(bytes(&positions)), U32(n), U32(heads), U32(dim), Out(&mut out)],
            );
            let part = |row: usize, part: usize, head: usize| &qkv[(row * 3 + part) * d + head * dim..][..dim];
            let mut expected = Vec::new();
            for (row, &position) in positions.iter().enumerate() {
                let seen = row - position as usize..=row;
                for head in 0..heads {
                    let of = |which| seen.clone().map(|j| part(j, which, head)).collect::<Vec<_>>();
                    expected.extend(attention(part(row, 0, head), &of(1), &of(2)));
                }
            }
            assert_close(&unpacked(&out, precision), &expected, precision, &format!("{heads} heads of {dim}"));
        }
    }
}

/// One more token of some flows: what is cached already counts, what belongs to others stays.
pub(in crate::cuda) fn flows_attend_to_their_caches(run: &dyn RunKernel) {
    for (heads, dim) in [(3, 10), (2, 24)] {
        for precision in BOTH {
            let (d, most, all_slots) = (heads * dim, 21, 6);
            // The third row is nobody's.
            let slots = [4u32, 0, NO_SLOT, 5, 2];
            let positions = [20u32, 0, 3, 7, 16];
            let n = slots.len();
            let qkv = numbers(n * 3 * d, 5, precision);
            let caches = [6, 7].map(|seed| numbers(all_slots * most * d, seed, precision));
            let [mut keys, mut values] = caches.clone().map(|cache| packed(&cache, precision));
            let mut out = unwritten(n * d, precision);
            run.run(
                by_precision(precision, [m::ATTEND_CACHED_F32, m::ATTEND_CACHED_BF16]),
                (n * heads).div_ceil(8),
                &mut [
                    In(packed(&qkv, precision)),
                    In(bytes(&slots)),
                    In(bytes(&positions)),
                    U32(n),
                    U32(heads),
                    U32(dim),
                    U32(most),
                    Out(&mut keys),
                    Out(&mut values),
                    Out(&mut out),
                ],
            );
            let mut expected_caches = caches;
            let mut expected = Vec::new();
            for row in (0..n).filter(|&row| slots[row] != NO_SLOT) {
                for head in 0..heads {
                    let part = |part: usize| &qkv[(row * 3 + part) * d + head * dim..][..dim];
                    let flow = (slots[row] as usize * heads + head) * most * dim;
                    let position = positions[row] as usize;
                    for (cache, which) in expected_caches.iter_mut().zip([1, 2]) {
                        cache[flow + position * dim..][..dim].copy_from_slice(part(which));
                    }
                    let [keys, values] = expected_caches
                        .each_ref()
                        .map(|cache| cache[flow..][..(position + 1) * dim].chunks(dim).collect());
                    let (keys, values): (Vec<&[f32]>, Vec<&[f32]>) = (keys, values);
                    expected.extend(attention(part(0), &keys, &values));
                }
            }
            let mut out = unpacked(&out, precision);
            assert!(out.drain(2 * d..3 * d).all(f32::is_nan), "{precision:?}: something was written to nobody's row");
            assert_close(&out, &expected, precision, "attention to caches");
            let [expected_keys, expected_values] = expected_caches.map(|cache| packed(&cache, precision));
            assert!(keys == expected_keys && values == expected_values, "{precision:?}: caches differ");
        }
    }
}

/// The token that the rule draws, and how near, as a share of all, the draw comes to one that is another token's.
fn drawn(logits: &[f32], candidates: &[Token], sampling: &Sampling, u: f64) -> (Token, f64) {
    let logit = |token: Token| logits[token as usize];
    let mut order = candidates.to_vec();
    order.sort_by(|&a, &b| (logit(b) + 0.0).total_cmp(&(logit(a) + 0.0)).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return (order[0], 1.0);
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let top = logit(order[0]);
    let weight = |token: Token| (f64::from(logit(token) - top) / f64::from(sampling.temperature)).exp();
    let all: f64 = order.iter().map(|&token| weight(token)).sum();
    let (mut sum, mut n, mut nearest) = (0.0, 0, f64::INFINITY);
    if sampling.top_p < 1.0 {
        let enough = f64::from(sampling.top_p) * all;
        while n < order.len() && sum < enough {
            sum += weight(order[n]);
            nearest = nearest.min((sum - enough).abs() / all);
            n += 1;
        }
        order.truncate(n);
    } else {
        sum = all;
    }
    order.sort_unstable();
    let mut left = u * sum;
    let mut found = None;
    for &token in &order {
        left -= weight(token);
        nearest = nearest.min(left.abs() / sum);
        if left < 0.0 && found.is_none() {
            found = Some(token);
        }
    }
    (found.unwrap_or(order[order.len() - 1]), nearest)
}

/// Draws are the rule's, at the ends of the vocabulary, whatever is banned, and none where a logit is no number.
pub(in crate::cuda) fn tokens_are_drawn_by_the_rule(run: &dyn RunKernel, packets: u32, rows: usize) {
    let vocabulary = Vocabulary::new(packets, ["a", "b"].map(String::from));
    let v = vocabulary.len();
    let words = (packets as usize + 1).div_ceil(32);
    let mut stream = Stream::new(12, u64::from(packets));
    let mut logits: Vec<f32> = (0..rows * v).map(|_| (4.0 * stream.normal()) as f32).collect();
    // Ties, zeros of either sign, and tokens that cannot come; those after the packets are the likeliest.
    for (i, logit) in logits.iter_mut().enumerate() {
        match (i % v, i % 7) {
            (token, _) if token >= packets as usize => *logit += 9.0,
            (_, 1) => *logit = 3.0,
            (_, 2) => *logit = if i % 2 == 0 { 0.0 } else { -0.0 },
            (token, 3) if token > 0 => *logit = f32::NEG_INFINITY,
            _ => {}
        }
    }
    let sample = |logits: &[f32], banned: &[u32], draws: &[[u32; 4]], sampling: &Sampling| {
        let mut tokens = bytes(&vec![77u32; draws.len()]);
        let rule = Rule { vocabulary: &vocabulary, sampling, banned };
        run.run(
            m::SAMPLE,
            draws.len(),
            &mut [
                In(bytes(logits)),
                U32(v),
                In(bytes(&rule.words())),
                In(bytes(banned)),
                In(bytes(draws)),
                Out(&mut tokens),
            ],
        );
        cast_slice::<u8, Token>(&tokens).to_vec()
    };
    let plain = Sampling { seed: 0x0123_4567_89ab_cdef, first_flow: (1 << 33) + 5, ..Sampling::default() };
    let may_end = |row: usize| !row.is_multiple_of(3);
    let flow = |row: usize| plain.first_flow + row as u64 / 4;
    let draws: Vec<[u32; 4]> = (0..rows)
        .map(|row| [flow(row) as u32, (flow(row) >> 32) as u32, (row % 4) as u32, u32::from(may_end(row))])
        .collect();
    let (mut close, mut count) = (0, 0);
    for (temperature, top_k, top_p) in [
        (1.0, 0, 1.0),
        (0.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1.0, 1, 1.0),
        (2.0, 20, 1.0),
        (1.0, 0, 0.9),
        (1.3, 30, 0.5),
        (1.0, u32::MAX, 1e-9),
    ] {
        // Nothing, the end, and with it every fifth packet but the first.
        for step in [usize::MAX, packets as usize + 1, 5] {
            let sampling = Sampling { temperature, top_k, top_p, ..plain.clone() };
            let is_banned = |token: usize| (token + 1).is_multiple_of(step) || (step == 5 && token == packets as usize);
            let mut banned = vec![0u32; words];
            (0..=packets as usize).filter(|&i| is_banned(i)).for_each(|i| banned[i / 32] |= 1 << (i % 32));
            for (row, token) in sample(&logits, &banned, &draws, &sampling).into_iter().enumerate() {
                let last = packets + u32::from(may_end(row));
                let candidates: Vec<Token> = (0..last).filter(|&i| !is_banned(i as usize)).collect();
                let u = uniform(sampling.seed, flow(row), (row % 4) as u64);
                let (expected, nearest) = drawn(&logits[row * v..(row + 1) * v], &candidates, &sampling, u);
                (close, count) = (close + u32::from(nearest < 1e-9), count + 1);
                assert!(
                    token == expected || nearest < 1e-9,
                    "row {row} of {rows}: {token}, not {expected} of {packets}, {sampling:?}"
                );
            }
        }
    }
    assert!(close * 10 < count || packets < 3, "{close} of {count} draws say nothing");
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
        let mut logits = logits[..v].to_vec();
        logits[packets as usize / 2] = bad;
        assert_eq!(sample(&logits, &vec![0; words], &draws[..1], &plain), [Token::MAX], "{bad}");
    }
    assert_eq!(sample(&vec![f32::NEG_INFINITY; v], &vec![0; words], &draws[..1], &plain), [Token::MAX]);
}
