//! Matrix products of `f32`, by the `gemm` crate.
//!
//! Each product runs on the calling thread: the network splits its work into tasks above this level, which costs fewer
//! joins than splitting every product and makes results independent of the number of threads.

use rayon::prelude::*;

/// A matrix in a slice, rows or columns strided, so that transposing is free.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A dense row-major `rows` × `cols` matrix.
    ///
    /// # Panics
    /// If `data` is shorter than that.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "{} values do not hold {rows} x {cols}", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Columns `begin..end` of it.
    ///
    /// # Panics
    /// If the matrix has fewer columns.
    #[must_use]
    pub fn columns(self, begin: usize, end: usize) -> Self {
        assert!(begin <= end && end <= self.cols, "columns {begin}..{end} of {}", self.cols);
        let data = if self.rows == 0 || begin == end { &[] } else { &self.data[begin * self.col_stride..] };
        Self { data, cols: end - begin, ..self }
    }

    /// Its transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// `c = a b`, where `c` is dense and row-major.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply(c: &mut [f32], a: Mat<'_>, b: Mat<'_>) {
    product(c, a, b, false);
}

/// `c += a b`, where `c` is dense and row-major.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply_add(c: &mut [f32], a: Mat<'_>, b: Mat<'_>) {
    product(c, a, b, true);
}

fn product(c: &mut [f32], a: Mat<'_>, b: Mat<'_>, add: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert!(b.rows == k, "a product of {m} x {k} and {} x {n}", b.rows);
    assert!(c.len() == m * n, "{} values are not {m} x {n}", c.len());
    if m == 0 || n == 0 {
        return;
    }
    for x in [a, b] {
        let end = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        assert!(
            x.cols == 0 || x.rows == 0 || end(x.rows, x.row_stride) + end(x.cols, x.col_stride) < x.data.len(),
            "a matrix ends outside its slice"
        );
    }
    // SAFETY: `gemm` reads `a[i * row_stride + l * col_stride]` for i < m, l < k and `b` likewise for l < k, j < n;
    // the assertions just above bound the last such index of each by the length of its slice. It reads and writes
    // `c[i * n + j]` for i < m, j < n, all inside `c` by its length. `c` is borrowed mutably, so nothing overlaps it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Writes the transpose of the `rows` × `cols` matrix `from` to `to`, on the current rayon pool.
///
/// The kernel reads its first factor along columns; a transposed weight matrix that is used by many products is worth
/// transposing once, instead of by every product.
///
/// # Panics
/// If either slice is not `rows * cols` long.
pub fn transpose(from: &[f32], rows: usize, cols: usize, to: &mut [f32]) {
    const BLOCK: usize = 16;
    assert!(from.len() == rows * cols && to.len() == rows * cols, "{rows} x {cols} values to transpose");
    if rows == 0 || cols == 0 {
        return;
    }
    to.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(stripe, to)| {
        let first = stripe * BLOCK;
        for (i, block) in from.chunks(BLOCK * cols).enumerate() {
            for (j, to) in to.chunks_exact_mut(rows).enumerate() {
                for (to, row) in to[i * BLOCK..].iter_mut().zip(block.chunks_exact(cols)) {
                    *to = row[first + j];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        (0..n).map(|i| crate::random::uniform(seed, 0, i as u64) as f32 - 0.5).collect()
    }

    #[test]
    fn products_equal_the_definition_in_every_layout() {
        for (m, k, n) in [(1, 1, 1), (1, 7, 33), (5, 3, 1), (17, 130, 65), (70, 65, 40), (3, 0, 4), (0, 2, 2)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let mut expected = vec![0.0f64; m * n];
            for i in 0..m {
                for j in 0..n {
                    expected[i * n + j] = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
                }
            }
            let transpose = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
            };
            let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
            for (a, b) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
            ] {
                let mut c = vec![f32::NAN; m * n];
                multiply(&mut c, a, b);
                multiply_add(&mut c, a, b);
                for (got, want) in c.iter().zip(&expected) {
                    assert!((f64::from(*got) - 2.0 * want).abs() < 1e-5, "{m} x {k} x {n}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        for (rows, cols) in [(1, 1), (16, 16), (33, 5), (7, 40), (0, 3)] {
            let from = numbers(rows * cols, 3);
            let mut to = vec![0.0; rows * cols];
            transpose(&from, rows, cols, &mut to);
            for i in 0..rows {
                for j in 0..cols {
                    assert_eq!(to[j * rows + i], from[i * cols + j]);
                }
            }
        }
    }

    #[test]
    fn columns_of_a_matrix_are_its_columns() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let mut c = [0.0; 6];
        multiply(&mut c, Mat::new(&identity, 3, 3), Mat::new(&x, 3, 4).columns(1, 3));
        assert_eq!(c, [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    }

    #[test]
    #[should_panic(expected = "a product of")]
    fn shapes_that_do_not_fit_are_caught() {
        multiply(&mut [0.0; 4], Mat::new(&[0.0; 6], 2, 3), Mat::new(&[0.0; 4], 2, 2));
    }
}
